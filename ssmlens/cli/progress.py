"""Progress of long work on stderr: a bar on a terminal, elsewhere a plain line every few seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ssmlens.cli.terminal import escaped

# Seconds between plain lines.
_PAUSE = 5.0


@contextmanager
def progress(title: str) -> Iterator[Callable[..., None]]:
    """Yield a function to call with (count, total[, label])."""
    if sys.stderr.isatty():
        with _bar(title) as tell:
            yield tell
        return
    last = time.monotonic()

    def tell(count: int, total: int, label: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PAUSE:
            last = now
            with suppress(OSError):
                line = escaped(f"{title}: {count} of {total} {label}".rstrip())
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
        TextColumn("{task.fields[label]}", markup=False),
    )
    # A long memory: runs of a sweep end minutes apart.
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=3600.0,
    ) as bars:
        bar = bars.add_task(title, total=None, label="")

        def tell(count: int, total: int, label: str = "") -> None:
            bars.update(bar, completed=count, total=total, label=escaped(label))

        yield tell
