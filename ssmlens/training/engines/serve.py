"""A worker's side: does the work on a pack and says what became of it, whatever the engine."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from ssmlens.errors import SsmlensError
from ssmlens.training.engines.engine import Place, Told, Work

# Seconds between signs of life that are passed on.
_BEAT = 1.0


def serve(
    pack: Sequence[Any], work: Work, place: Place, tell: Callable[[Told | None], None]
) -> None:
    """Do the work on this pack; tells each job's end as it comes, None as a sign of life, and how the pack ended."""
    last, left = time.monotonic(), set(range(len(pack)))

    def told(job: int, state: str, error: str) -> None:
        left.discard(job)
        tell(Told(job, state, _one_line(error)))

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last > _BEAT:
            last = time.monotonic()
            tell(None)

    try:
        work(pack, place, told, beat)
    except SsmlensError as error:
        tell(Told(None, "failed", _line(error)))
    except Exception as error:
        full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        tell(Told(None, "out of memory" if full else "crashed", _line(error)))
    else:
        silent = f"its work ended without a word on {len(left)} of {len(pack)} jobs"
        tell(Told(None, "crashed", silent) if left else Told(None, "ended"))


def _line(error: BaseException) -> str:
    told = _one_line(str(error))
    return (
        told
        if isinstance(error, SsmlensError)
        else f"{type(error).__name__}: {told}".removesuffix(": ")
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:1000]
