"""Try a kernel once: it may not compile with another version of Triton, or for another GPU."""

import logging
from collections.abc import Callable

log = logging.getLogger("ssmlens")


def succeeds(run: Callable[[], object], otherwise: str) -> bool:
    """Whether `run` ends without an error. If not, a warning says `otherwise`, and why."""
    try:
        run()
    except Exception as error:  # a compiler may raise anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        log.warning("%s: %s", otherwise, reason)
        return False
    return True
