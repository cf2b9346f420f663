"""Assemble the one file of a capture while later layers are computed.

It only saves time: if it fails, or the run is stopped, the file is assembled from the shards at the end. It leaves the
room that later shards need.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ssmlens.errors import SsmlensError
from ssmlens.files.disk import check_space
from ssmlens.store.assemble import GrowingFile

# HDF5 raises RuntimeError where it reads back what a full disk did not take.
_FAILURES = (SsmlensError, OSError, RuntimeError)


class EarlyAssembly:
    """The file that grows, if there is one. Threads may add layers at the same time.

    Args:
        target: The file's path once it is complete.
        layers: Number of its layers.
    """

    def __init__(self, target: Path, layers: int):
        self._target = target
        self._missing = layers
        self._lock = threading.Lock()
        self._file: GrowingFile | None = None
        self._failed = False

    def add(self, layer: int, paths: Sequence[Path]) -> None:
        """Add a layer from its intact shards. After a failure, the file is removed, and nothing is added any more."""
        with self._lock:
            if self._failed:
                return
            try:
                # Room for what is missing, if its layers are like this one: their shards and their copies.
                shard = sum(path.stat().st_size for path in paths)
                check_space(self._target, (2 * self._missing - 1) * shard)
                self._file = self._file or GrowingFile(self._target)
                self._file.add(layer, paths)
                self._missing -= 1
            except _FAILURES:
                self._failed = True
                self._discard()

    def take(self) -> GrowingFile | None:
        """Hand the file over to who finishes it; None if there is none."""
        with self._lock:
            file, self._file = self._file, None
            return file

    def discard(self) -> None:
        """Remove the file, if it is still here."""
        with self._lock:
            self._discard()

    def _discard(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(*_FAILURES):
                file.discard()
