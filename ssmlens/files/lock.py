"""Who may write: locks of the system, which go with their process, however that ends."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from ssmlens.errors import BusyError
from ssmlens.files.disk import failure

_ASK_EVERY = 0.02  # seconds
_TRIES = 20  # where the lock cannot be had and has no file: its holder removed it just now, or none can be made


class Lock:
    """The right to write something, held by one process at a time: from here to `close`, or the end of a `with` block.

    The file stays, empty, where the lock is asked for again; `remove` lets it go.

    Args:
        path: The lock's file; its folder is there.
        of: What may be written by who holds it: named where the lock cannot be had.
        busy: What to say where another process holds it.
        wait: Seconds to wait for the other.

    Raises:
        BusyError: Another process holds it.
        SsmlensError: The file cannot be made, or a link stands in its place.
    """

    def __init__(self, path: Path, of: Path, busy: str, *, wait: float = 0.0):
        import filelock  # only those who write need it

        self._path = path
        # Several threads of a writer share it: `close` is called by another than asked for it.
        self._lock = filelock.FileLock(path, thread_local=False)
        for _ in range(_TRIES):
            try:
                path.parent.stat()  # filelock would make it
                self._lock.acquire(timeout=wait, poll_interval=_ASK_EVERY)
                return
            except filelock.Timeout:
                if is_locked(path) is not None or path.is_symlink():
                    raise BusyError(busy) from None
                wait = 0.0
            except OSError as error:
                raise failure(of, 0, error) from error
        raise failure(of, 0, FileNotFoundError(errno.ENOENT, ""))

    def remove(self) -> None:
        """Remove the lock's file, and let others have what it stands for."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._path.unlink()
        self.close()

    def close(self) -> None:
        """Let others have what it stands for."""
        self._lock.release()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock whose file this is; None where there is no such file, or it cannot be told."""
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
        os.close(handle)  # and with it the lock, if it was free
