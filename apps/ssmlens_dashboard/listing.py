"""What lies under the paths that the dashboard was given: captures, runs and attributions, each with an id and a name.

Captures lie by themselves, or in a run's folder `captures/`: those that its training made at some of its steps.
`ssmlens.files.folders` says which folders are searched, here as in `ssmlens.find_runs`. An id is a hash of the path of
a thing, without the ending that the path has while the thing is being written.
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
_MOST_PARTS = 5  # of a path in a name
_CAPTURES = "captures"  # in a run's folder
_FEW = 256  # directories that can be checked at every request
_SOON = 1.0  # seconds between two checks of more than that


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


class Listing:
    """The captures, runs and attributions under some paths, as they are now; for several threads.

    A folder is read again only when it has changed. More than 256 folders are checked at most once a second.

    Args:
        roots: Captures (files or folders), run folders, files of attributions, or folders that hold them: without
            links, and finished or not.
        follow_links: Whether links below them are followed.
    """

    def __init__(self, roots: Sequence[Path], follow_links: bool = False):
        self._roots = roots
        self._follow = follow_links
        self._folders = Folders(follow_links)
        self._lock = threading.Lock()
        self._found: dict[Path, Kind] | None = None
        self._known: dict[Path, tuple[Listed, bool]] = {}  # whether a file is an attribution
        self._looked = 0  # directories
        self._until = 0.0
        self._entries: dict[Kind, list[Entry]] = {}

    def entries(self, kind: Kind) -> list[Entry]:
        """What there is now, in the order of the paths and of names within a folder.

        Raises:
            OpenFilesError: No more files can be opened, and what there is is not known.
        """
        with self._lock:
            if time.monotonic() >= self._until:
                self._look()
            return self._entries[kind]

    def files(self, path: Path) -> list[Path]:
        """The files of an entry: itself, or what its folder holds now."""
        listed = self._folders.listed(path)
        return [path] if listed is None else [path / name for name in listed.files]

    def _look(self) -> None:
        self._looked = 0
        places = [place for root in self._roots for place in (root, partial_path(root))]
        found: dict[Path, Kind] = {}
        for place in places:
            found |= dict(sorted(self._at(place)))
        if self._follow:
            found = _once(found)
        if found != self._found:
            runs = _entries("run", [path for path, kind in found.items() if kind == "run"], {})
            captures = [path for path, kind in found.items() if kind == "capture"]
            captures = [p for p in captures if finished(p) == p or finished(p) not in found]
            attributions = [path for path, kind in found.items() if kind == "attribution"]
            self._entries = {
                "run": list(runs.values()),
                "capture": list(_entries("capture", captures, runs).values()),
                "attribution": list(_entries("attribution", attributions, {}).values()),
            }
            self._found = found
        if self._looked > _FEW:
            self._until = time.monotonic() + _SOON

    def _at(self, place: Path) -> Iterator[tuple[Path, Kind]]:
        """What is found at one of the paths and below it."""
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
                    own = path / _CAPTURES
                    for below, held in self._walk(own, 1):
                        yield from _captures(own, 1, below, held)

    def _attributions(self, path: Path, listed: Listed) -> Iterator[tuple[Path, Kind]]:
        """Those among the files of a directory; a file is opened once for as long as its directory stays the same."""
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
            self._looked += 1
            yield path, listed


def _captures(root: Path, depth: int, path: Path, listed: Listed) -> Iterator[tuple[Path, Kind]]:
    """The captures that a directory is, or holds as files."""
    if "manifest.json" in listed.files or "header.h5" in listed.files:
        yield path, "capture"
    elif len(path.relative_to(root).parts) < depth:
        for name in listed.files:
            if name.endswith(".h5"):
                yield path / name, "capture"


def _once(found: Mapping[Path, Kind]) -> dict[Path, Kind]:
    """What is found under several names, by its own where that is among them, else by the first."""
    lies_at = {path: path.resolve() for path in found}
    chosen: dict[Path, Path] = {}
    for path, real in lies_at.items():
        if real not in chosen or path == real:
            chosen[real] = path
    kept = set(chosen.values())
    return {path: kind for path, kind in found.items() if path in kept}


def _entries(kind: Kind, paths: Sequence[Path], runs: Mapping[Path, Entry]) -> dict[Path, Entry]:
    of = {path: runs.get(path.parent.parent) for path in paths if path.parent.name == _CAPTURES}
    names = _names([finished(path) for path in paths if not of.get(path)])
    made = {}
    for path in paths:
        run, done = of.get(path), finished(path)
        name = f"{run.name}/{done.name}" if run else names[done]
        identifier = hashlib.sha256(os.fsencode(done)).hexdigest()[:10]
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


def finished(path: Path) -> Path:
    """Where a capture lies when it is finished."""
    return path.with_name(path.name.removesuffix(PARTIAL))
