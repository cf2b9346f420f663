"""Files and folders that are complete or absent: written under a unique name, synced, then renamed.

Two writers of one name never write into the same file, and links that others put there are not followed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssmlens.errors import SsmlensError
from ssmlens.files import disk, place
from ssmlens.files.sink import Sink


@contextmanager
def new_file(path: Path, least: int = 0, *, sync_name: bool = True) -> Iterator[Sink]:
    """Yield a file to fill; it exists once the block has ended, and is removed if the block raises.

    Args:
        path: Its name.
        least: Least size in bytes: so much must be free before anything is written.
        sync_name: Whether to wait until the name is on the disk. For many files in one folder, wait once after the last
            (`place.sync_folder`): after a power cut each file is then complete or absent.

    Raises:
        SsmlensError: One line with the path, the bytes needed and the bytes free.
    """
    partial = place.own_name(path)
    with disk.one_line_errors(path, least):
        place.check_name(path)
        disk.check_space(path, least)
        sink = Sink(partial)
    needed = least
    try:
        with sink:
            try:
                yield sink
            finally:
                needed = max(least, sink.size)
                sink.sync()
        place.put(partial, path, sync_name=sync_name)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise disk.failure(path, needed, error) from error
        raise


def write_file(path: Path, data: bytes, *, sync_name: bool = True) -> None:
    """Write `data` to `path`, as `new_file` does. Raises SsmlensError if that fails."""
    with new_file(path, len(data), sync_name=sync_name) as sink:
        sink.write(data)


class NewFolder:
    """A folder that is being filled; see `new_folder`.

    Args:
        path: Its path until it is complete.

    Attributes:
        size: Bytes written into it.
    """

    def __init__(self, path: Path):
        self.size = 0
        self._path = path

    @contextmanager
    def file(self, name: str) -> Iterator[Sink]:
        """Yield a file of the folder to fill; it is synced when the block ends."""
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
    """Yield a folder to fill, as `new_file`. It replaces an older folder of the name once it is complete.

    Args:
        path: Its name; the parent folder must exist.

    Raises:
        SsmlensError: One line with the path, the bytes needed and the bytes free.
    """
    partial = place.own_name(path)
    with disk.one_line_errors(path):
        place.check_name(path)
        partial.mkdir()
    folder = NewFolder(partial)
    try:
        yield folder
        place.sync_folder(partial)
        place.put(partial, path)
    except BaseException as error:
        with suppress(OSError):
            place.remove(partial)
        if isinstance(error, OSError):
            raise disk.failure(path, folder.size, error) from error
        raise


def ensure_folder(path: Path) -> None:
    """Create a folder if it does not exist.

    Raises:
        SsmlensError: It cannot be created, or a link to a folder stands in its place: files would be written or removed
            elsewhere.
    """
    with disk.one_line_errors(path):
        path.mkdir(exist_ok=True)
    if not place.is_folder(path):
        raise SsmlensError(f"cannot write {path}: a link stands in its place; remove the link")
