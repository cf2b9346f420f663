"""Locks for writers: the system releases them when their process ends, in any way."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from ssmlens.errors import BusyError
from ssmlens.files.disk import failure

_ASK_EVERY = 0.02  # seconds
_TRIES = 20  # if the lock is not available and has no file: its holder just removed it, or it cannot be created


class Lock:
    """An exclusive lock: one process at a time holds it, until `close` or the end of a `with` block.

    The lock's file stays, empty, for the next holder; `remove` deletes it.

    Args:
        path: The lock's file; its folder must exist.
        target: The file or folder that the lock protects, named in errors.
        busy: The message if another process holds the lock.
        wait: Seconds to wait for the other process.

    Raises:
        BusyError: Another process holds the lock.
        SsmlensError: The file cannot be created, or a link stands in its place.
    """

    def __init__(self, path: Path, target: Path, busy: str, *, wait: float = 0.0):
        import filelock  # only those who write need it

        self._path = path
        # Several threads of a writer share the lock: another thread than the one that acquired it may close it.
        self._lock = filelock.FileLock(path, thread_local=False)
        for _ in range(_TRIES):
            try:
                path.parent.stat()  # filelock would create the folder
                self._lock.acquire(timeout=wait, poll_interval=_ASK_EVERY)
                return
            except filelock.Timeout:
                if is_locked(path) is not None or path.is_symlink():
                    raise BusyError(busy) from None
                wait = 0.0
            except OSError as error:
                raise failure(target, 0, error) from error
        raise failure(target, 0, FileNotFoundError(errno.ENOENT, ""))

    def remove(self) -> None:
        """Remove the lock's file and release the lock."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._path.unlink()
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_locked(path: Path) -> bool | None:
    """Tell whether a process holds the lock of this file; None if the file does not exist, or that is unknown."""
    import filelock

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return not filelock.lock_descriptor(handle, blocking=False)
    except OSError:
        return None
    finally:
        os.close(handle)  # this also releases the lock, if it was free
