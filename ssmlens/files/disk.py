"""What can go wrong on a disk, told in one line; and how much room there is."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssmlens.errors import SsmlensError

_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "the folder is not a folder",
    errno.EISDIR: "a folder stands in its place",
    errno.ELOOP: "a link stands in its place",
    errno.ENAMETOOLONG: "its name is too long",
}


def check_space(path: Path, needed: int) -> None:
    """Raise OSError before writing where `needed` bytes do not fit beside `path`."""
    if needed > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def told_in_one_line(path: Path, needed: int = 0) -> Iterator[None]:
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
    if error.errno == errno.ENOENT:
        there = path.absolute().parent.is_dir()
        reason = (
            "nothing can be made there, or somebody removed it"
            if there
            else "the folder does not exist"
        )
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
