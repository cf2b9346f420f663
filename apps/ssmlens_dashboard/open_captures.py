"""The open captures: as many as fit into a share of the files of this process. The one used longest ago goes first."""

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
_PAUSES = (0.0, 0.1, 0.4, 1.0)  # seconds given to other readers to end
_Signature = tuple[tuple[str, int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class _Open:
    """A capture, the state of its files when it was opened, and how many files it keeps open."""

    capture: Capture
    signature: _Signature
    files: int


class OpenCaptures:
    """Captures by path, for several threads; each is opened when it is first asked for.

    A capture that is let go of is not closed here: another thread may be reading it. It closes with its last reader.
    """

    def __init__(self):
        self._open: OrderedDict[Path, _Open] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, files: Callable[[], Sequence[Path]]) -> Capture:
        """A capture, opened anew where its files have changed.

        Args:
            path: Where it lies.
            files: Gives its files.

        Raises:
            OSError: One of the files is gone.
            SsmlensError: As `open_capture`.
        """
        return self.with_files(lambda: self._get(path, files()))

    def with_files(self, make: Callable[[], T]) -> T:
        """What `make` returns. Where it can open no more files, all captures are let go of and it is called again.

        Raises:
            OpenFilesError: Other readers kept those captures open for too long.
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
        with self._lock:  # one opening at a time: two would only do the same work
            signature = _signature(files)
            # Let go of the old one first: HDF5 takes a file it has open for the same as before.
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
        while self._open and needed + sum(it.files for it in self._open.values()) > most:
            self._open.popitem(last=False)


def _signature(files: Sequence[Path]) -> _Signature:
    states = [(file.name, file.stat()) for file in files]
    return tuple((name, s.st_mtime_ns, s.st_size, s.st_ino) for name, s in states)
