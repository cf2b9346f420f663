"""A file object for HDF5 whose writes never fail: HDF5 kills its process when a write fails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Only a file that this call creates: never an existing one, or the target of a link.
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Sink:
    """A new file whose writes never raise: the first error is saved, and later bytes are only counted.

    Call `sync` before trusting the file: it raises the saved error. The class has the methods that h5py needs.

    Args:
        path: The file. No file or link of that name may exist.

    Attributes:
        size: Bytes written, including bytes that were only counted.

    Raises:
        OSError: It cannot be created, or exists already.
    """

    def __init__(self, path: Path):
        self.size = 0
        self._place = 0
        self._error: BaseException | None = None
        self._file = os.open(path, _NEW, 0o666)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position of the next read or write."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}
        self._place = origin[whence] + offset
        return self._place

    def tell(self) -> int:
        """Return the position of the next read or write."""
        return self._place

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer."""
        view, place = memoryview(data).cast("B"), self._place
        self._place += len(view)
        self.size = max(self.size, self._place)
        with self._save_error():
            while place < self._place and self._error is None:
                place += os.pwrite(self._file, view[place - self._place :], place)
        return len(view)

    def read(self, count: int) -> bytes:
        """Read back what was written, zeros past its end."""
        data = b""
        with self._save_error():
            data = os.pread(self._file, count, self._place)
        self._place += count
        return data.ljust(count, b"\0")

    def readinto(self, buffer: Any) -> int:
        """Read back into a buffer."""
        view = memoryview(buffer).cast("B")
        view[:] = self.read(len(view))
        return len(view)

    def truncate(self, size: int) -> int:
        """Cut or extend the file."""
        self.size = size
        with self._save_error():
            os.ftruncate(self._file, size)
        return size

    def flush(self) -> None:
        """Do nothing: no bytes are buffered."""

    def sync(self) -> None:
        """Wait until everything is on the disk; raise the first error, if any."""
        with self._save_error():
            os.fsync(self._file)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    @contextmanager
    def _save_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # an interrupt too: `sync` raises it
            self._error = self._error or error
