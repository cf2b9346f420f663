"""What the dashboard has open: captures, training runs and attributions under the paths it was given.

Nothing that comes from a browser is ever used as a path: it names the id of an entry. A capture is opened when it is
first looked at, read-only, and opened again when its files have changed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ssmlens.errors import CaptureFileError, SsmlensError, UsageError
from ssmlens.files.place import partial_path
from ssmlens.store import Capture
from ssmlens_dashboard.listing import Entry, Kind, Listing, finished
from ssmlens_dashboard.open_captures import OpenCaptures

_COMMANDS = {
    "capture": "ssmlens capture",
    "run": "ssmlens train",
    "attribution": "ssmlens attribute --out NAME.json",
}


class GrowingError(CaptureFileError):
    """A capture is still being written; later it can be shown."""


class Library:
    """The captures, runs and attributions under some paths.

    Args:
        paths: Captures (files or folders), run folders, files of attributions, or folders that hold them.
        follow_links: Whether links below them are followed, which may lead out of them.

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
        """What there is now, in the order of the paths and of names within a folder. Raises OpenFilesError."""
        return self._open.with_files(lambda: self._listing.entries(kind))

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
            OpenFilesError: No more files can be opened.
        """
        entry = self.entry(identifier)
        if entry.growing:
            raise GrowingError(
                f"{entry.name} is not finished: {_layers_written(entry.path)} of its layers are written. It is shown "
                "as soon as it is. If nothing writes it any more, go on with it: ssmlens capture ... --resume"
            )
        try:
            return self._open.get(entry.path, lambda: self._listing.files(entry.path))
        except SsmlensError as error:
            raise type(error)(without_folders(str(error), entry)) from error
        except OSError as error:
            raise CaptureFileError(f"{entry.name} cannot be read: {error.strerror}") from error


def first(entries: Sequence[Entry]) -> Entry:
    """What is shown if nobody says: the first that is complete, if any is."""
    return next((entry for entry in entries if not entry.growing), entries[0])


def without_folders(message: str, entry: Entry) -> str:
    """A message about a capture, with its name for its path."""
    return message.replace(str(entry.path), entry.name).replace(f"{entry.path.parent}/", "")


def _layers_written(folder: Path) -> int:
    """How many layers of a growing capture have a file, each of them whole or of some of its prompts."""
    return len({path.name.partition(".")[0] for path in folder.glob("layer-*.h5")})
