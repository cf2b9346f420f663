"""A file to which complete pieces are appended."""

import os
import stat
from pathlib import Path

from ssmlens.errors import SsmlensError
from ssmlens.files.disk import failure, one_line_errors

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class AppendedFile:
    """A file that one process appends to; it is created if absent.

    Args:
        path: The file.

    Raises:
        SsmlensError: It cannot be created, or is not a plain file but a link or a pipe.
    """

    def __init__(self, path: Path):
        self._path = path
        with one_line_errors(path):
            self._file = os.open(path, _FLAGS, 0o666)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise SsmlensError(f"cannot write {path}: it is not a plain file")

    def append(self, data: bytes) -> None:
        """Append all of `data`, or nothing of it.

        Raises:
            SsmlensError: One line: the disk is full, or the file cannot be written.
        """
        size = os.fstat(self._file).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            os.ftruncate(self._file, size)
            raise failure(self._path, len(data), error) from error

    def sync(self) -> None:
        """Wait until all of it is on the disk. Raises SsmlensError if that fails."""
        with one_line_errors(self._path):
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
