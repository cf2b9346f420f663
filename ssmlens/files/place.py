"""Rename complete files and folders in one step, and remove them, without following links."""

import ctypes
import errno
import functools
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial"
"""The ending of every name of an incomplete file or folder."""

_OWN = re.compile(rf"\.[0-9a-f]{{16}}{re.escape(PARTIAL)}$")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LONGEST_NAME = 255
_UNKNOWN_CALL = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def partial_path(path: Path) -> Path:
    """Return the name of a folder while several processes fill it: `path`.partial."""
    return path.with_name(path.name + PARTIAL)


def lock_path(path: Path, part: str = "") -> Path:
    """Return the name of the lock on `path`, or on a part of it: a hidden file beside it."""
    return path.with_name(_cut("." + path.name, f"{part}.lock"))


def own_name(path: Path) -> Path:
    """Return a unique name beside `path`: `path`.<64 random bits>.partial, shortened if it is too long."""
    return path.with_name(_cut(path.name, f".{secrets.token_hex(8)}{PARTIAL}"))


def own_names(path: Path) -> list[Path]:
    """List the partial files of `path` that interrupted processes left: all names that `own_name` could return."""
    stem = _OWN.sub("", own_name(path).name)
    near = (other for other in path.parent.iterdir() if _OWN.search(other.name))
    return [other for other in near if _OWN.sub("", other.name) == stem]


def check_name(path: Path) -> None:
    """Raise OSError if no file can have this name: it is too long, or its folder is not a folder."""
    with suppress(FileNotFoundError):
        path.lstat()


def put(complete: Path, path: Path, *, sync_name: bool = True) -> None:
    """Rename `complete` to `path`, replacing what is there. At no moment is `path` absent or mixed.

    Args:
        complete: A file or folder.
        path: Its new name.
        sync_name: Whether to wait until a file's name is on the disk. A folder's always is.

    Raises:
        OSError: It cannot be done; a file does not replace a folder, and a folder does not replace a link.
    """
    if is_folder(complete) and path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if is_folder(complete) and is_folder(path):
        exchange(complete, path)
        sync_folder(path.parent)
        remove(complete)
    else:
        complete.replace(path)
        if sync_name:
            sync_folder(path.parent)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names: in one step on Linux, in three renames elsewhere.

    Raises:
        OSError: One of them does not exist, or the folder cannot be changed.
    """
    call = _renameat2()
    if call is not None:
        names = _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other)
        if call(*names, _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _UNKNOWN_CALL:
            raise OSError(number, os.strerror(number), str(other))
    aside = own_name(other)
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def is_folder(path: Path) -> bool:
    """Tell whether the path is a folder; a link to a folder is not."""
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> None:
    """Remove a file, a folder with its contents, or a link (not its target); do nothing if the path does not exist."""
    if is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk, if the file system supports that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cut(stem: str, ending: str) -> str:
    """Join `stem` and `ending`, with `stem` cut to the longest name that is allowed."""
    return os.fsdecode(os.fsencode(stem)[: _LONGEST_NAME - len(ending)]) + ending


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    with suppress(OSError, AttributeError):
        call = ctypes.CDLL(None, use_errno=True).renameat2
        call.argtypes = [
            *(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint),
        ]
        return call
    return None


def identity(path: Path) -> tuple[int, ...] | None:
    """What differs if another file or folder stands at `path`; None if there is none.

    The number of an inode alone may be used again, and its content may be what it was before the last.
    """
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns
