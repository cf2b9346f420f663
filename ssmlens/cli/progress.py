"""Progress of long work, on stderr: a bar on a terminal, now and then a plain line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ssmlens.cli.terminal import escaped

# Seconds between plain lines.
_PAUSE = 5.0


@contextmanager
def progress(title: str) -> Iterator[Callable[..., None]]:
    """A function to call with (done, in all[, what is being done])."""
    if sys.stderr.isatty():
        with _bar(title) as tell:
            yield tell
        return
    last = time.monotonic()

    def tell(done: int, total: int, what: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PAUSE:
            last = now
            with suppress(OSError):
                line = escaped(f"{title}: {done} of {total} {what}".rstrip())
                print(line, file=sys.stderr, flush=True)

    yield tell


@contextmanager
def _bar(title: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", markup=False),
    )
    # A long memory: runs of a sweep end minutes apart.
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=3600.0,
    ) as bars:
        bar = bars.add_task(title, total=None, what="")

        def tell(done: int, total: int, what: str = "") -> None:
            bars.update(bar, completed=done, total=total, what=escaped(what))

        yield tell
