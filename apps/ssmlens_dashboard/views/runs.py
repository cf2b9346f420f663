"""The training runs of a library: read anew only where they grew."""

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

_QUIET = (
    600.0  # seconds without a word after which a run that says it runs is taken to have stopped
)
_AFTER = 60.0  # seconds for which the page goes on looking after the last word: a sweep starts another run
_HELD: WeakKeyDictionary[Library, dict[str, Run]] = WeakKeyDictionary()
_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Listed:
    """A run of the library, as far as it can be read.

    Attributes:
        entry: Which one.
        folder: Id of the folder it lies in: of its sweep.
        run: What it says; None where it cannot be read.
        problem: Why it cannot be read.
    """

    entry: Entry
    folder: str
    run: Run | None
    problem: str = ""

    @property
    def state(self) -> str:
        """The run's state, "silent" where it says that it runs and has written nothing for ten minutes."""
        if self.run is None:
            return "unreadable"
        state = self.run.status.state
        return "silent" if state in ("running", "starting") and _age(self.run) > _QUIET else state


def listed(library: Library, chosen: Sequence[str] = ()) -> list[Listed]:
    """The runs there are now, only what grew of them read.

    Args:
        library: Where they are.
        chosen: Ids of runs, or of folders of runs; empty: the folder that was last written to.
    """
    found = everywhere(library)
    if not chosen and found:
        chosen = (max(found, key=lambda it: it.run.written if it.run else 0).folder,)
    return [it for it in found if it.entry.id in chosen or it.folder in chosen]


def everywhere(library: Library) -> list[Listed]:
    """All runs there are now, only what grew of them read."""
    entries = library.entries("run")
    with _LOCK:
        held = _HELD.setdefault(library, {})
        for gone in held.keys() - {entry.id for entry in entries}:
            del held[gone]
        return [_listed(entry, held) for entry in entries]


def legible(found: Sequence[Listed]) -> list[Run]:
    """The runs that can be read, those that failed among them."""
    return [it.run for it in found if it.run is not None]


def captures(library: Library) -> dict[str, list[Entry]]:
    """The captures that each run has made so far, by the run's id, in the order of its steps."""
    made: dict[str, list[Entry]] = {}
    for entry in library.entries("capture"):
        if entry.run is not None and not entry.growing:
            made.setdefault(entry.run.id, []).append(entry)
    return made


def folders(found: Sequence[Listed]) -> dict[str, str]:
    """Folders that hold runs: id and name, in order."""
    return {it.folder: it.entry.path.parent.name for it in found}


def fingerprint(found: Sequence[Listed]) -> str:
    """What a page that shows these runs depends on, in short."""
    told = [
        (it.entry.id, it.state, it.problem, it.run and (it.run.metrics.end, it.run.written))
        for it in found
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def live(found: Sequence[Listed]) -> bool:
    """Whether there may soon be more to see."""
    return any(
        it.state in ("running", "starting") or _age(it.run) < _AFTER for it in found if it.run
    )


def _listed(entry: Entry, held: dict[str, Run]) -> Listed:
    folder = hashlib.sha256(str(entry.path.parent).encode()).hexdigest()[:10]
    try:
        known = held.get(entry.id)
        held[entry.id] = open_run(entry.path) if known is None else known.reread()
        return Listed(entry, folder, held[entry.id])
    except SsmlensError as error:
        held.pop(entry.id, None)
        return Listed(entry, folder, None, without_folders(str(error), entry))


def _age(run: Run) -> float:
    """Seconds since a run wrote something."""
    return time.time() - run.written
