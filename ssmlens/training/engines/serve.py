"""The worker's side of every engine: do the work on a pack and report how it ended."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from ssmlens.errors import SsmlensError
from ssmlens.training.engines.engine import Place, Report, Work

# Seconds between signs of life.
_BEAT = 1.0


def serve(
    pack: Sequence[Any], work: Work, place: Place, tell: Callable[[Report | None], None]
) -> None:
    """Do the work on this pack; call `tell` as each job ends and as the pack ends, and with None as a sign of life."""
    last, left = time.monotonic(), set(range(len(pack)))

    def report(job: int, state: str, error: str) -> None:
        left.discard(job)
        tell(Report(job, state, _one_line(error)))

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last > _BEAT:
            last = time.monotonic()
            tell(None)

    try:
        work(pack, place, report, beat)
    except SsmlensError as error:
        tell(Report(None, "failed", _describe(error)))
    except Exception as error:
        full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        tell(Report(None, "out of memory" if full else "crashed", _describe(error)))
    else:
        silent = f"its work ended without a report on {len(left)} of {len(pack)} jobs"
        tell(Report(None, "crashed", silent) if left else Report(None, "ended"))


def _describe(error: BaseException) -> str:
    message = _one_line(str(error))
    if isinstance(error, SsmlensError):
        return message
    return f"{type(error).__name__}: {message}".removesuffix(": ")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:1000]
