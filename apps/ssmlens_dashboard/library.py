"""What the dashboard has open: captures, training runs and attributions found under the paths it was given.

Captures lie by themselves, or in a run's folder `captures/`: those that its training made at some of its steps.
Everything has an id, a hash of where it lies, or will lie when it is finished; nothing that comes from a browser is
ever used as a path. A capture is opened when it is first looked at, read-only, and opened again when its files have
changed.
"""

import dataclasses
import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ssmlens.errors import CaptureFileError, SsmlensError, UsageError
from ssmlens.files.place import PARTIAL, partial_path
from ssmlens.store import Capture, open_capture
from ssmlens.store.attribution_file import is_attribution

Kind = Literal["capture", "run", "attribution"]
_DEPTH = 3
_MOST_PARTS = 5  # of a path in a name
_CAPTURES = "captures"  # in a run's folder
_Signature = tuple[tuple[str, int, int, int], ...]


class GrowingError(CaptureFileError):
    """A capture is still being written; later it can be shown."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Something that can be opened.

    Attributes:
        id: What URLs and callbacks call it.
        kind: "capture", "run" (a folder of `ssmlens train`) or "attribution" (a file of `ssmlens attribute`).
        path: Where it lies; never sent to a browser.
        name: What a reader sees: its file name, with its folders' as far as others have the same.
        run: Of a capture: the run that made it, None where it lies by itself.
    """

    id: str
    kind: Kind
    path: Path
    name: str
    run: "Entry | None" = None

    @property
    def growing(self) -> bool:
        """Whether it is still being written."""
        return self.path.name.endswith(PARTIAL)


class Library:
    """The captures, runs and attributions under some paths; folders are looked through anew each time they are listed.

    Args:
        paths: Captures (files or folders), run folders, files of attributions, or folders that hold them.

    Raises:
        UsageError: One of the paths does not exist.
    """

    def __init__(self, paths: Iterable[Path]):
        self._roots = [_finished(path.resolve()) for path in paths]
        for path in self._roots:
            if not (path.exists() or partial_path(path).exists()):
                raise UsageError(
                    f"there is no {path}; give captures, runs, attributions or folders of them"
                )
        self._open: dict[str, tuple[_Signature, Capture]] = {}
        self._lock = threading.Lock()

    def entries(self, kind: Kind) -> list[Entry]:
        """What there is now, in the order of the paths and of names within a folder."""
        places = [place for root in self._roots for place in (root, partial_path(root))]
        found = {path: what for place in places for path, what in _found(place, _DEPTH)}
        if kind == "attribution":
            there = [path for path, what in found.items() if what == kind]
            return list(_entries(kind, there, {}).values())
        runs = _entries("run", [path for path, what in found.items() if what == "run"], {})
        if kind == "run":
            return list(runs.values())
        captures = [
            path
            for path, what in found.items()
            if what == "capture" and (_finished(path) == path or _finished(path) not in found)
        ]
        return list(_entries("capture", captures, runs).values())

    def entry(self, identifier: str | None, kind: Kind = "capture") -> Entry:
        """What bears an id; for None the first that is complete.

        Raises:
            UsageError: Nothing does, any longer.
        """
        entries = self.entries(kind)
        if identifier is None:
            if entries:
                return first(entries)
            raise UsageError(f"there is no {kind} here yet; make one with: {_COMMANDS[kind]}")
        for entry in entries:
            if entry.id == identifier:
                return entry
        raise UsageError(f"this {kind} is not here, or no longer; choose another")

    def capture(self, identifier: str | None) -> Capture:
        """The capture of an id (None: the first), open; opened again where its files have changed.

        Raises:
            UsageError: There is none.
            GrowingError: It is not finished.
            CaptureFileError: It is damaged, or of another version; the message says what to do.
        """
        entry = self.entry(identifier)
        if entry.growing:
            raise GrowingError(
                f"{entry.name} is not finished: {_layers_written(entry.path)} of its layers are written. It is shown "
                "as soon as it is; if nothing writes it any more, run the same capture again with --resume"
            )
        with self._lock:  # one opening at a time: two would only do the same work
            try:
                signature = _signature(entry.path)
                if self._open.get(entry.id, (None,))[0] != signature:
                    # Let go of the old one first: HDF5 takes a file it has open for the same as before. It is not
                    # closed, for another thread may be reading it; it goes with its last reader.
                    self._open.pop(entry.id, None)
                    self._open[entry.id] = signature, open_capture(entry.path)
                return self._open[entry.id][1]
            except SsmlensError as error:
                self._open.pop(entry.id, None)
                raise type(error)(without_folders(str(error), entry)) from error
            except OSError as error:
                self._open.pop(entry.id, None)
                raise CaptureFileError(f"{entry.name} cannot be read: {error.strerror}") from error


def first(entries: Sequence[Entry]) -> Entry:
    """What is shown if nobody says: the first that is complete, if any is."""
    return next((entry for entry in entries if not entry.growing), entries[0])


def without_folders(message: str, entry: Entry) -> str:
    """A message about a capture, with its name for its path."""
    return message.replace(str(entry.path), entry.name).replace(f"{entry.path.parent}/", "")


_COMMANDS = {
    "capture": "ssmlens capture",
    "run": "ssmlens train",
    "attribution": "ssmlens attribute --out NAME.json",
}


def _entries(kind: Kind, paths: Sequence[Path], runs: Mapping[Path, Entry]) -> dict[Path, Entry]:
    of = {path: runs.get(path.parent.parent) for path in paths if path.parent.name == _CAPTURES}
    names = _names([_finished(path) for path in paths if not of.get(path)])
    made = {}
    for path in paths:
        run, finished = of.get(path), _finished(path)
        name = f"{run.name}/{finished.name}" if run else names[finished]
        identifier = hashlib.sha256(str(finished).encode()).hexdigest()[:10]
        made[path] = Entry(identifier, kind, path, name, run)
    return made


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """The last part of each path, or as many of the last ones as tell it from the others."""
    names = {path: path.name for path in paths}
    for parts in range(2, _MOST_PARTS + 1):
        times = Counter(names.values())
        if len(times) == len(names):
            break
        for path, name in names.items():
            if times[name] > 1:
                names[path] = "/".join(path.parts[-parts:])
    return names


def _found(path: Path, depth: int) -> Iterator[tuple[Path, Kind]]:
    kind = _kind(path)
    if kind is not None:
        yield path, kind
        if kind == "run":
            yield from _found(path / _CAPTURES, 1)
    elif path.is_dir() and depth and not path.name.startswith("."):
        try:
            children = sorted(path.iterdir())
        except OSError:
            return
        for child in children:
            yield from _found(child, depth - 1)


def _kind(path: Path) -> Kind | None:
    if path.is_file():
        return (
            "capture" if path.suffix == ".h5" else "attribution" if is_attribution(path) else None
        )
    if (path / "metrics.jsonl").is_file():
        return "run"
    if (path / "manifest.json").is_file() or (path / "header.h5").is_file():
        return "capture"
    return None


def _finished(path: Path) -> Path:
    """Where a capture lies when it is finished."""
    return path.with_name(path.name.removesuffix(PARTIAL))


def _layers_written(folder: Path) -> int:
    """How many layers of a growing capture have a file, each of them whole or of some of its prompts."""
    return len({path.name.partition(".")[0] for path in folder.glob("layer-*.h5")})


def _signature(path: Path) -> _Signature:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(file.name, file.stat()) for file in files]
    return tuple((name, s.st_mtime_ns, s.st_size, s.st_ino) for name, s in states)
