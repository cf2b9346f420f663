"""The captures, training runs and attributions under the paths given to the dashboard.

Nothing from a browser is used as a path: a browser names the id of an entry. A capture is opened read-only on first
use, and opened again when its files have changed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ssmlens.errors import CaptureFileError, SsmlensError, UsageError
from ssmlens.files.place import partial_path
from ssmlens.store import Capture
from ssmlens.store.shards import layers_written
from ssmlens_dashboard.listing import Entry, Kind, Listing, finished
from ssmlens_dashboard.open_captures import OpenCaptures

_COMMANDS = {
    "capture": "ssmlens capture",
    "run": "ssmlens train",
    "attribution": "ssmlens attribute --out NAME.json",
}


class GrowingError(CaptureFileError):
    """A capture is still being written; it can be shown later."""


class Library:
    """The captures, runs and attributions under some paths.

    Args:
        paths: Captures (files or folders), run folders, files of attributions, or folders that contain them.
        follow_links: Whether to follow links below the paths, which may lead out of them.

    Raises:
        UsageError: One of the paths does not exist.
    """

    def __init__(self, paths: Iterable[Path], follow_links: bool = False):
        roots = [finished(path.resolve()) for path in paths]
        for path in roots:
            if not (path.exists() or partial_path(path).exists()):
                raise UsageError(
                    f"there is no {path}; give captures, runs, attributions or folders of them"
                )
        self._listing = Listing(roots, follow_links)
        self._open = OpenCaptures()

    def entries(self, kind: Kind) -> list[Entry]:
        """Return the current entries, by path and by name within a folder. Raises OpenFilesError."""
        return self._open.with_files(lambda: self._listing.entries(kind))

    def entry(self, identifier: str | None, kind: Kind = "capture") -> Entry:
        """Return the entry with an id; for None the first complete one.

        Raises:
            UsageError: There is no such entry, or no longer.
        """
        entries = self.entries(kind)
        if identifier is None:
            if entries:
                return first(entries)
            raise UsageError(f"there is no {kind} here yet; make one with: {_COMMANDS[kind]}")
        for entry in entries:
            if entry.id == identifier:
                return entry
        raise UsageError(f"this {kind} does not exist, or no longer; choose another")

    def capture(self, identifier: str | None) -> Capture:
        """Open the capture with an id (None: the first); open it again if its files have changed.

        Raises:
            UsageError: There is no such capture.
            GrowingError: It is not finished.
            CaptureFileError: It is damaged or has another version; the message says what to do.
            OpenFilesError: No more files can be opened.
        """
        entry = self.entry(identifier)
        if entry.growing:
            raise GrowingError(
                f"{entry.name} is not finished: {layers_written(entry.path)} of its layers are written. It is shown "
                "as soon as it is. If nothing writes it any more, go on with it: ssmlens capture ... --resume"
            )
        try:
            return self._open.get(entry.path, lambda: self._listing.files(entry.path))
        except SsmlensError as error:
            raise type(error)(without_folders(str(error), entry)) from error
        except OSError as error:
            raise CaptureFileError(f"{entry.name} cannot be read: {error.strerror}") from error


def first(entries: Sequence[Entry]) -> Entry:
    """Return the default entry: the first complete one, else the first."""
    return next((entry for entry in entries if not entry.growing), entries[0])


def without_folders(message: str, entry: Entry) -> str:
    """Replace the path of an entry by its name in a message."""
    return message.replace(str(entry.path), entry.name).replace(f"{entry.path.parent}/", "")
