"""Search folders for captures and runs; the listing of a folder is read again only when it changes.

The search goes at most three levels down, in the order of names. Names that begin with a dot are left out. Links are
followed only with `follow_links`; a directory that several links lead to is then found once.
"""

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ssmlens.files import descriptors

DEPTH = 3
"""Levels below a folder that are searched."""

_MOST_KNOWN = 1 << 16  # directories
# A file system's clock is coarse: a directory read this soon after a change may change again with the same time.
_SETTLED = 2_000_000_000  # nanoseconds
_State = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Listed:
    """The contents of a directory, without names that begin with a dot.

    Attributes:
        files: Names of its plain files, sorted.
        folders: Names of its directories, sorted.
        links: Names of its links to anything, sorted.
    """

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class Folders:
    """A cache of directory listings, each read again only when it has changed; safe for several threads.

    Args:
        follow_links: Whether links are followed.
    """

    def __init__(self, follow_links: bool = False):
        self._follow = follow_links
        self._known: dict[Path, tuple[_State, Listed]] = {}
        self._lock = threading.Lock()

    def listed(self, path: Path) -> Listed | None:
        """List a directory now; None if it is not one, or cannot be read. Raises OpenFilesError."""
        return self._look(path)[0]

    def walk(
        self, root: Path, ends: Callable[[Listed], bool], depth: int = DEPTH
    ) -> Iterator[tuple[Path, Listed]]:
        """Yield a directory and those below it, in the order of their names, each with its listing.

        Followed links come last, under their own names.

        Args:
            root: The directory to start from; nothing is found if it is not a directory.
            ends: Tells whether the search stops at a directory with this listing.
            depth: Levels below `root` that are searched.

        Raises:
            OpenFilesError: No more files can be opened. A directory that cannot be read for another reason is left
                out.
        """
        seen: set[tuple[int, int]] = set()
        links: list[tuple[Path, int]] = []
        yield from self._below(root, ends, depth, seen, links)
        while links:
            path, left = links.pop(0)
            yield from self._below(path, ends, left, seen, links)

    def _below(
        self,
        path: Path,
        ends: Callable[[Listed], bool],
        depth: int,
        seen: set[tuple[int, int]],
        links: list[tuple[Path, int]],
    ) -> Iterator[tuple[Path, Listed]]:
        listed, identity = self._look(path)
        if listed is None or identity in seen:
            return
        if self._follow:  # without links no directory is met twice
            seen.add(identity)
            listed, linked = _resolved(path, listed)
        else:
            linked = ()
        yield path, listed
        if depth and not ends(listed):
            links += [(path / name, depth - 1) for name in linked]
            for name in listed.folders:
                yield from self._below(path / name, ends, depth - 1, seen, links)

    def _look(self, path: Path) -> tuple[Listed | None, tuple[int, int]]:
        """Return a directory's listing and identity; no listing if it cannot be read."""
        try:
            state = path.stat()
            now = state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns
            with self._lock:
                before, listed = self._known.get(path, (None, Listed()))
            if before != now:
                settled = time.time_ns() - state.st_mtime_ns > _SETTLED
                listed = _read(path)
                if settled:
                    with self._lock:
                        if len(self._known) >= _MOST_KNOWN:  # most no longer exist
                            self._known.clear()
                        self._known[path] = now, listed
            return listed, now[:2]
        except OSError as error:
            with self._lock:
                self._known.pop(path, None)
            descriptors.raise_if_exhausted(error)
            return None, (0, 0)


def _read(path: Path) -> Listed:
    files, folders, links = [], [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                links.append(entry.name)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_file(follow_symlinks=False):
                files.append(entry.name)
    return Listed(*(tuple(sorted(names)) for names in (files, folders, links)))


def _resolved(path: Path, listed: Listed) -> tuple[Listed, tuple[str, ...]]:
    """Return the listing with links to files among the files, and the names of links to directories."""
    files = [name for name in listed.links if (path / name).is_file()]
    folders = tuple(name for name in listed.links if (path / name).is_dir())
    return dataclasses.replace(listed, files=tuple(sorted([*listed.files, *files]))), folders
