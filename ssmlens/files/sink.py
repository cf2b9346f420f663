"""A file object for HDF5 whose writes never fail: HDF5 kills its process when a write fails."""

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# Only a file that this call creates: never an existing one, or the target of a link.
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BUFFERS = 1024  # that one call writes (IOV_MAX)


class Sink:
    """A new file whose writes never raise: the first error is saved, and later bytes are only counted.

    Call `sync` before trusting the file: it raises the saved error. The class has the methods that h5py needs.

    h5py writes inside its lock, so that no other thread can use HDF5 meanwhile. Memory that is lent is written later,
    by `write_lent`, in one call for all that is contiguous in the file. Threads may fill the file at the same time:
    what one lends, only that one writes.

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
        self._lending = _Lending()
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
        lending = self._lending
        lent, lending.next = lending.next, None
        if lent is not None and _is_same_memory(view, lent):
            lending.pieces.append((place, lent))
            return len(view)
        with self._save_error():
            while place < self._place and self._error is None:
                place += os.pwrite(self._file, view[place - self._place :], place)
        return len(view)

    def lend(self, data: Any) -> None:
        """Let this thread's next write, if it is of exactly this memory, wait for `write_lent`.

        Until then the memory must not change.
        """
        self._lending.next = memoryview(data).cast("B")

    def write_lent(self) -> None:
        """Write all memory that this thread has lent."""
        lent, self._lending.pieces = self._lending.pieces, []
        with self._save_error():
            for place, run in _runs(lent) if self._error is None else ():
                self._write_run(place, run)

    def _write_run(self, place: int, run: list[memoryview]) -> None:
        """Write pieces one after the other; the disk may take only a part of them at a time."""
        while run:
            written = os.pwritev(self._file, run, place)
            place += written
            while run and written >= len(run[0]):
                written -= len(run.pop(0))
            if run:
                run[0] = run[0][written:]

    def read(self, count: int) -> bytes:
        """Read back what was written, zeros past its end."""
        self.write_lent()
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
        """Write what this thread has lent, wait until everything is on the disk, and raise the first error, if any."""
        self.write_lent()
        with self._save_error():
            os.fsync(self._file)
        self.check()

    def check(self) -> None:
        """Raise the first error, if any."""
        if self._error is not None:
            # A copy: HDF5 holds this object while the file is open, and a raised error holds all its callers.
            raise copy.copy(self._error)

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Later writes are dropped."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    @contextmanager
    def _save_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # an interrupt too: `sync` raises it
            self._error = self._error or error.with_traceback(None)


class _Lending(threading.local):
    """What a thread has lent.

    Attributes:
        next: What its next write may be.
        pieces: What it has written since, as (place, memory).
    """

    def __init__(self) -> None:
        self.next: memoryview | None = None
        self.pieces: list[tuple[int, memoryview]] = []


def _runs(lent: list[tuple[int, memoryview]]) -> list[tuple[int, list[memoryview]]]:
    """Group pieces that are contiguous in the file, at most `_BUFFERS` of them: (place of the first, pieces)."""
    runs: list[tuple[int, list[memoryview]]] = []
    end = -1
    for place, view in lent:
        if place != end or len(runs[-1][1]) == _BUFFERS:
            runs.append((place, []))
        runs[-1][1].append(view)
        end = place + len(view)
    return runs


def _is_same_memory(one: memoryview, other: memoryview) -> bool:
    return len(one) == len(other) and _address(one) == _address(other)


def _address(view: memoryview) -> int:
    return np.frombuffer(view, np.uint8).__array_interface__["data"][0]
