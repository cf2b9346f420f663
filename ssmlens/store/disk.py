"""Bytes to disk, so that a name is either complete or absent, and a full disk is one clear line."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssmlens.errors import SsmlensError
from ssmlens.store.sink import Sink

PARTIAL = ".partial"

_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "the folder is not a folder",
}


def partial_path(path: Path) -> Path:
    """The name that `path` bears until it is complete."""
    return path.with_name(path.name + PARTIAL)


@contextmanager
def new_file(path: Path, least: int = 0) -> Iterator[Sink]:
    """A file to fill: it bears `path`.partial, and is synced and renamed when the block ends. Nothing is left if not.

    Args:
        path: Its name.
        least: Bytes that it will have at least: they must be free before anything is written.

    Raises:
        SsmlensError: One line with the path, the bytes needed and the bytes free.
    """
    needed, partial = least, partial_path(path)
    try:
        check_space(path, least)
        with Sink(partial) as sink:
            try:
                yield sink
            finally:
                needed = max(least, sink.size)
                sink.sync()
        rename(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise failure(path, needed, error) from error
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write `data` under `path`, as `new_file` does. Raises SsmlensError where it cannot."""
    with new_file(path, len(data)) as sink:
        sink.write(data)


def rename(source: Path, target: Path) -> None:
    """Give `source` its final name, and sync the folder so that a power cut cannot undo it."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk (where the file system can say so)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(path: Path, needed: int) -> None:
    """Raise OSError before writing where `needed` bytes do not fit beside `path`."""
    if needed > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def told_in_one_line(path: Path, needed: int) -> Iterator[None]:
    """Turn an OSError of the block into an SsmlensError that names path, need and free space."""
    try:
        yield
    except OSError as error:
        raise failure(path, needed, error) from error


def failure(path: Path, needed: int, error: OSError) -> SsmlensError:
    """The one line: path, reason, bytes needed and bytes free."""
    # HDF5's own messages take several lines; the number of the error says enough.
    said = os.strerror(error.errno).lower() if error.errno else str(error).split("\n")[0]
    reason = _REASONS.get(error.errno or 0, said)
    return SsmlensError(f"cannot write {path}: {reason}; needs {size(needed)}, {_free(path)} free")


def size(count: int) -> str:
    """A number of bytes for people: `13.2 MiB`."""
    if count < 1024:
        return f"{count} bytes"
    amount, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.1f} {units[0]}"


def _free(path: Path) -> str:
    for folder in path.absolute().parents:
        with suppress(OSError):
            return size(shutil.disk_usage(folder).free)
    return "unknown"
