"""Errors of a disk as one line, and free space."""

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
    """Raise OSError if `needed` bytes do not fit into the folder of `path`."""
    if needed > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def one_line_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn an OSError of the `with` block into an SsmlensError that names path, needed and free space."""
    try:
        yield
    except OSError as error:
        raise failure(path, needed, error) from error


def failure(path: Path, needed: int, error: OSError) -> SsmlensError:
    """Build the error, one line: path, reason, bytes needed and bytes free."""
    # HDF5's own messages take several lines; the error number is enough.
    message = os.strerror(error.errno).lower() if error.errno else str(error).split("\n")[0]
    reason = _REASONS.get(error.errno or 0, message)
    if error.errno == errno.ENOENT:
        folder_exists = path.absolute().parent.is_dir()
        reason = (
            "nothing can be created there, or another process removed it"
            if folder_exists
            else "the folder does not exist"
        )
    return SsmlensError(f"cannot write {path}: {reason}; needs {size(needed)}, {_free(path)} free")


def size(count: int) -> str:
    """Format a number of bytes, such as `13.2 MiB`."""
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
