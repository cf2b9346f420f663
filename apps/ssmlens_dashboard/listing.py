"""List the captures, runs and attributions under the paths given to the dashboard, each with an id and a name.

A capture stands alone or in the folder `captures/` of the run that made it during training. The search covers the same
folders as `ssmlens.find_runs` (`ssmlens.files.folders`). An id is a hash of the path, without the ending that the path
has while it is being written.
"""

import dataclasses
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ssmlens.files.folders import DEPTH, Folders, Listed
from ssmlens.files.place import PARTIAL, partial_path
from ssmlens.runs.run import MOST_RUNS, holds_run
from ssmlens.store.attribution_file import is_attribution

Kind = Literal["capture", "run", "attribution"]
_MOST_PARTS = 5  # of the path, in a name
_CAPTURES = "captures"  # the folder in a run's folder
_FEW = 256  # most directories to check at every request
_PAUSE = 1.0  # seconds between two checks of more directories


@dataclasses.dataclass(frozen=True)
class Entry:
    """A capture, run or attribution that can be opened.

    Attributes:
        id: Its name in URLs and callbacks.
        kind: "capture", "run" (a folder of `ssmlens train`) or "attribution" (a file of `ssmlens attribute`).
        path: Its path; never sent to a browser.
        name: Its name for the reader: the file name, with as many parent folders as make it unique.
        run: The run that made a capture; None for any other entry.
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


class Listing:
    """The current captures, runs and attributions under some paths. Thread-safe.

    A folder is read again only when it has changed. More than 256 folders are checked at most once a second.

    Args:
        roots: Captures (files or folders), run folders, files of attributions, or folders that contain them: resolved
            paths, finished or not.
        follow_links: Whether to follow links below the paths.
    """

    def __init__(self, roots: Sequence[Path], follow_links: bool = False):
        self._roots = roots
        self._follow = follow_links
        self._folders = Folders(follow_links)
        self._lock = threading.Lock()
        self._kinds: dict[Path, Kind] | None = None
        self._known: dict[Path, tuple[Listed, bool]] = {}  # whether a file is an attribution
        self._walked = 0  # directories
        self._until = 0.0
        self._entries: dict[Kind, list[Entry]] = {}

    def entries(self, kind: Kind) -> list[Entry]:
        """Return the current entries, by path and by name within a folder.

        Raises:
            OpenFilesError: No more files can be opened, so the search is incomplete.
        """
        with self._lock:
            if time.monotonic() >= self._until:
                self._look()
            return self._entries[kind]

    def files(self, path: Path) -> list[Path]:
        """List the files of an entry: the file itself, or the current files of its folder."""
        listed = self._folders.listed(path)
        return [path] if listed is None else [path / name for name in listed.files]

    def _look(self) -> None:
        self._walked = 0
        places = [place for root in self._roots for place in (root, partial_path(root))]
        kinds: dict[Path, Kind] = {}
        for place in places:
            kinds |= dict(sorted(self._at(place)))
        if self._follow:
            kinds = _once(kinds)
        if kinds != self._kinds:
            runs = _entries("run", [path for path, kind in kinds.items() if kind == "run"], {})
            captures = [path for path, kind in kinds.items() if kind == "capture"]
            captures = [p for p in captures if finished(p) == p or finished(p) not in kinds]
            attributions = [path for path, kind in kinds.items() if kind == "attribution"]
            self._entries = {
                "run": list(runs.values()),
                "capture": list(_entries("capture", captures, runs).values()),
                "attribution": list(_entries("attribution", attributions, {}).values()),
            }
            self._kinds = kinds
        if self._walked > _FEW:
            self._until = time.monotonic() + _PAUSE

    def _at(self, place: Path) -> Iterator[tuple[Path, Kind]]:
        """Yield what lies at one of the paths and below it."""
        if place.is_file():
            if place.suffix == ".h5":
                yield place, "capture"
            elif is_attribution(place):
                yield place, "attribution"
            return
        runs = 0
        for path, listed in self._walk(place, DEPTH):
            if not holds_run(listed):
                yield from _captures(place, DEPTH, path, listed)
                yield from self._attributions(path, listed)
            elif runs < MOST_RUNS:
                runs += 1
                yield path, "run"
                if _CAPTURES in listed.folders or (self._follow and _CAPTURES in listed.links):
                    folder = path / _CAPTURES
                    for below, contents in self._walk(folder, 1):
                        yield from _captures(folder, 1, below, contents)

    def _attributions(self, path: Path, listed: Listed) -> Iterator[tuple[Path, Kind]]:
        """Yield the attributions in a directory. Open each file once while the directory stays the same."""
        if "manifest.json" in listed.files:  # a capture
            return
        for name in listed.files:
            if name.endswith(".json"):
                file = path / name
                known = self._known.get(file)
                if known is None or known[0] is not listed:
                    known = self._known[file] = (listed, is_attribution(file))
                if known[1]:
                    yield file, "attribution"

    def _walk(self, root: Path, depth: int) -> Iterator[tuple[Path, Listed]]:
        for path, listed in self._folders.walk(root, holds_run, depth):
            self._walked += 1
            yield path, listed


def _captures(root: Path, depth: int, path: Path, listed: Listed) -> Iterator[tuple[Path, Kind]]:
    """Yield the directory itself if it is a capture, else the capture files in it."""
    if "manifest.json" in listed.files or "header.h5" in listed.files:
        yield path, "capture"
    elif len(path.relative_to(root).parts) < depth:
        for name in listed.files:
            if name.endswith(".h5"):
                yield path / name, "capture"


def _once(kinds: Mapping[Path, Kind]) -> dict[Path, Kind]:
    """Keep one path for each file found under several: its real path if present, else the first."""
    real_paths = {path: path.resolve() for path in kinds}
    path_of: dict[Path, Path] = {}
    for path, real in real_paths.items():
        if real not in path_of or path == real:
            path_of[real] = path
    unique = set(path_of.values())
    return {path: kind for path, kind in kinds.items() if path in unique}


def _entries(kind: Kind, paths: Sequence[Path], runs: Mapping[Path, Entry]) -> dict[Path, Entry]:
    run_of = {path: runs.get(path.parent.parent) for path in paths if path.parent.name == _CAPTURES}
    names = _names([finished(path) for path in paths if not run_of.get(path)])
    entries = {}
    for path in paths:
        run, final = run_of.get(path), finished(path)
        name = f"{run.name}/{final.name}" if run else names[final]
        identifier = hashlib.sha256(os.fsencode(final)).hexdigest()[:10]
        entries[path] = Entry(identifier, kind, path, name, run)
    return entries


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name each path by its last part, or by as many last parts as make it unique."""
    names = {path: path.name for path in paths}
    for parts in range(2, _MOST_PARTS + 1):
        times = Counter(names.values())
        if len(times) == len(names):
            break
        for path, name in names.items():
            if times[name] > 1:
                names[path] = "/".join(path.parts[-parts:])
    return names


def finished(path: Path) -> Path:
    """Return the path of a capture after it is finished."""
    return path.with_name(path.name.removesuffix(PARTIAL))
