"""The training runs of a library; only new lines are read again."""

import dataclasses
import hashlib
import threading
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from ssmlens.errors import SsmlensError
from ssmlens.runs.run import Run, open_run
from ssmlens_dashboard.library import Library, without_folders
from ssmlens_dashboard.listing import Entry

_SILENT = 600.0  # seconds without a write after which a running run counts as stopped
_AFTER = (
    60.0  # seconds that the page keeps looking after the last write: a sweep may start another run
)
_RUNS: WeakKeyDictionary[Library, dict[str, Run]] = WeakKeyDictionary()
_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Listed:
    """A run of the library, readable or not.

    Attributes:
        entry: Its entry in the library.
        folder: Id of its parent folder, which is its sweep's.
        run: The run; None if it cannot be read.
        problem: Why it cannot be read.
    """

    entry: Entry
    folder: str
    run: Run | None
    problem: str = ""

    @property
    def state(self) -> str:
        """The run's state: "silent" if it should be running but has written nothing for ten minutes."""
        if self.run is None:
            return "unreadable"
        state = self.run.status.state
        return "silent" if state in ("running", "starting") and _age(self.run) > _SILENT else state


def listed(library: Library, ids: Sequence[str] = ()) -> list[Listed]:
    """List the selected runs; read only what is new.

    Args:
        library: The library.
        ids: Ids of runs or of their folders; empty: the folder last written to.
    """
    runs = everywhere(library)
    if not ids and runs:
        ids = (max(runs, key=lambda item: item.run.written if item.run else 0).folder,)
    return [item for item in runs if item.entry.id in ids or item.folder in ids]


def everywhere(library: Library) -> list[Listed]:
    """List all runs; read only what is new."""
    entries = library.entries("run")
    with _LOCK:
        known = _RUNS.setdefault(library, {})
        for missing in known.keys() - {entry.id for entry in entries}:
            del known[missing]
        return [_listed(entry, known) for entry in entries]


def legible(runs: Sequence[Listed]) -> list[Run]:
    """Return the readable runs, failed ones included."""
    return [item.run for item in runs if item.run is not None]


def captures(library: Library) -> dict[str, list[Entry]]:
    """Group the complete captures by the id of their run, in the order of steps."""
    by_run: dict[str, list[Entry]] = {}
    for entry in library.entries("capture"):
        if entry.run is not None and not entry.growing:
            by_run.setdefault(entry.run.id, []).append(entry)
    return by_run


def folders(runs: Sequence[Listed]) -> dict[str, str]:
    """Map the id of each folder of runs to its name, in order."""
    return {item.folder: item.entry.path.parent.name for item in runs}


def fingerprint(runs: Sequence[Listed]) -> str:
    """Return a digest of everything that a page of these runs depends on."""
    state = [
        (
            item.entry.id,
            item.state,
            item.problem,
            item.run and (item.run.metrics.end, item.run.written),
        )
        for item in runs
    ]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def live(runs: Sequence[Listed]) -> bool:
    """Return whether these runs may soon change."""
    return any(
        item.state in ("running", "starting") or _age(item.run) < _AFTER
        for item in runs
        if item.run
    )


def _listed(entry: Entry, runs: dict[str, Run]) -> Listed:
    folder = hashlib.sha256(str(entry.path.parent).encode()).hexdigest()[:10]
    try:
        known = runs.get(entry.id)
        runs[entry.id] = open_run(entry.path) if known is None else known.reread()
        return Listed(entry, folder, runs[entry.id])
    except SsmlensError as error:
        runs.pop(entry.id, None)
        return Listed(entry, folder, None, without_folders(str(error), entry))


def _age(run: Run) -> float:
    """Return the seconds since a run last wrote."""
    return time.time() - run.written
