"""A file that HDF5 can be let write to: HDF5 takes its process down when writing fails, so here it never does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Made by this very call: never what somebody else made, nor what a link leads to.
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Sink:
    """A new file that never fails its writer: the first error is kept, and from then on bytes are only counted.

    Before the file is believed `sync` must be called, which raises that error. It has what h5py asks of a file.

    Args:
        path: The file. There must be none, nor a link, of that name.

    Attributes:
        size: Bytes written, those too that were only counted.

    Raises:
        OSError: It cannot be made, or is there already.
    """

    def __init__(self, path: Path):
        self.size = 0
        self._place = 0
        self._error: BaseException | None = None
        self._file = os.open(path, _NEW, 0o666)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Say where to read or write next."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}
        self._place = origin[whence] + offset
        return self._place

    def tell(self) -> int:
        """Where the next bytes are written or read."""
        return self._place

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer."""
        view, place = memoryview(data).cast("B"), self._place
        self._place += len(view)
        self.size = max(self.size, self._place)
        with self._kept():
            while place < self._place and self._error is None:
                place += os.pwrite(self._file, view[place - self._place :], place)
        return len(view)

    def read(self, count: int) -> bytes:
        """Read back what was written, zeros past its end."""
        data = b""
        with self._kept():
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
        with self._kept():
            os.ftruncate(self._file, size)
        return size

    def flush(self) -> None:
        """Nothing is held back."""

    def sync(self) -> None:
        """Wait until everything is on the disk; raises what went wrong on the way."""
        with self._kept():
            os.fsync(self._file)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # an interrupt too: it is told by `sync`
            self._error = self._error or error
