"""Files and folders that are complete or absent: written under a name of one's own, synced, then renamed.

Two writers of one name never meet in a file, and no link that somebody else has put there is followed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssmlens.errors import SsmlensError
from ssmlens.files import disk, place
from ssmlens.files.sink import Sink


@contextmanager
def new_file(path: Path, least: int = 0, *, sync_name: bool = True) -> Iterator[Sink]:
    """A file to fill; it is there when the block has ended, and nothing is left of it where the block raises.

    Args:
        path: Its name.
        least: Bytes that it will have at least: they must be free before anything is written.
        sync_name: Whether to wait until the name is on the disk. Where many files are written into one folder, wait
            once, after the last (`place.sync_folder`): after a power cut a file is then there whole, or not at all.

    Raises:
        SsmlensError: One line with the path, the bytes needed and the bytes free.
    """
    own = place.own_name(path)
    with disk.told_in_one_line(path, least):
        place.check_name(path)
        disk.check_space(path, least)
        sink = Sink(own)
    needed = least
    try:
        with sink:
            try:
                yield sink
            finally:
                needed = max(least, sink.size)
                sink.sync()
        place.put(own, path, sync_name=sync_name)
    except BaseException as error:
        with suppress(OSError):
            own.unlink()
        if isinstance(error, OSError):
            raise disk.failure(path, needed, error) from error
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write `data` under `path`, as `new_file` does. Raises SsmlensError where it cannot."""
    with new_file(path, len(data)) as sink:
        sink.write(data)


class NewFolder:
    """A folder that is being filled; see `new_folder`.

    Args:
        path: Where its files lie until it is complete.

    Attributes:
        size: Bytes written into it.
    """

    def __init__(self, path: Path):
        self.size = 0
        self._path = path

    @contextmanager
    def file(self, name: str) -> Iterator[Sink]:
        """A file of the folder to fill; it is synced when the block ends."""
        with Sink(self._path / name) as sink:
            try:
                yield sink
            finally:
                self.size += sink.size
                sink.sync()

    def write(self, name: str, data: bytes) -> None:
        """Write `data` as the file `name`."""
        with self.file(name) as sink:
            sink.write(data)


@contextmanager
def new_folder(path: Path) -> Iterator[NewFolder]:
    """A folder to fill; as `new_file`. A folder that bears the name goes when the new one is complete.

    Args:
        path: Its name; the folder above is there.

    Raises:
        SsmlensError: One line with the path, the bytes needed and the bytes free.
    """
    own = place.own_name(path)
    with disk.told_in_one_line(path):
        place.check_name(path)
        own.mkdir()
    folder = NewFolder(own)
    try:
        yield folder
        place.sync_folder(own)
        place.put(own, path)
    except BaseException as error:
        with suppress(OSError):
            place.remove(own)
        if isinstance(error, OSError):
            raise disk.failure(path, folder.size, error) from error
        raise


def ensure_folder(path: Path) -> None:
    """Make a folder where there is none.

    Raises:
        SsmlensError: It cannot be made, or a link to a folder stands in its place: what is written into it, or
            removed from it, would be somewhere else.
    """
    with disk.told_in_one_line(path):
        path.mkdir(exist_ok=True)
    if not place.is_folder(path):
        raise SsmlensError(f"cannot write {path}: a link stands in its place; remove the link")
