"""The open captures, limited by a share of this process's open files. The least recently used one is dropped first."""

import dataclasses
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ssmlens.errors import OpenFilesError
from ssmlens.files.descriptors import share
from ssmlens.store import Capture, open_capture

T = TypeVar("T")
_PAUSES = (0.0, 0.1, 0.4, 1.0)  # seconds to wait for other readers to end
_Signature = tuple[tuple[str, int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class _Open:
    """A capture, the state of its files on opening, and the number of files it keeps open."""

    capture: Capture
    signature: _Signature
    files: int


class OpenCaptures:
    """Captures by path, each opened on first use. Thread-safe.

    A dropped capture is not closed here: another thread may be reading it. It closes with its last reader.
    """

    def __init__(self):
        self._open: OrderedDict[Path, _Open] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, files: Callable[[], Sequence[Path]]) -> Capture:
        """Return a capture; open it again if its files have changed.

        Args:
            path: Its path.
            files: Returns its files.

        Raises:
            OSError: One of the files is gone.
            SsmlensError: As `open_capture`.
        """
        return self.with_files(lambda: self._get(path, files()))

    def with_files(self, make: Callable[[], T]) -> T:
        """Return `make()`. If no more files can be opened, drop all captures and call it again.

        Raises:
            OpenFilesError: Other readers kept the captures open for too long.
        """
        for pause in _PAUSES:
            try:
                return make()
            except OpenFilesError:
                with self._lock:
                    self._open.clear()
            time.sleep(pause)
        return make()

    def _get(self, path: Path, files: Sequence[Path]) -> Capture:
        with self._lock:  # open one at a time: two threads would only do the same work
            signature = _signature(files)
            # Drop the old one first: HDF5 takes a file that is still open for the old file.
            known = self._open.pop(path, None)
            if known is None or known.signature != signature:
                known = None
                needed = sum(file.suffix == ".h5" for file in files)
                self._make_room(needed)
                known = _Open(open_capture(path), signature, needed)
            self._open[path] = known
            return known.capture

    def _make_room(self, needed: int) -> None:
        most = share()
        while self._open and needed + sum(entry.files for entry in self._open.values()) > most:
            self._open.popitem(last=False)


def _signature(files: Sequence[Path]) -> _Signature:
    states = [(file.name, file.stat()) for file in files]
    return tuple((name, s.st_mtime_ns, s.st_size, s.st_ino) for name, s in states)
