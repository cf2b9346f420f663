"""The lock on a capture's output: held by a single writer, or shared by several that write different layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssmlens.errors import BusyError
from ssmlens.files import place
from ssmlens.files.lock import Lock, is_locked
from ssmlens.store.schema import layer_name

# Seconds that a sharing writer waits for the others while they start, and while one completes the capture.
_START_WAIT, _COMPLETE_WAIT = 30.0, 86_400.0


class OutputLock:
    """The right to write `out`, until `close`. While `out` is written, these files lie beside it:

        .NAME.lock             the lock of a single writer; a sharing writer holds it while it starts or completes
        .NAME.layer-005.lock   the lock of a sharing writer, named after its first layer

    Args:
        out: The file or folder that is written.
        layer: The first layer of a sharing writer. None: a single writer.

    Raises:
        BusyError: Another process writes `out`.
        SsmlensError: The locks cannot be created.
    """

    def __init__(self, out: Path, layer: int | None = None):
        self._out = out
        self._output_lock: Lock | None = None
        self._layer_lock: Lock | None = None
        if layer is None:
            self._output_lock = Lock(self._path(), out, self._busy)
            try:
                if self.tidy():
                    raise BusyError(self._busy)
            except BaseException:
                self.close()
                raise
        else:
            self._layer_lock = Lock(self._path(layer), out, f"{self._busy} (its layer {layer})")

    @contextmanager
    def exclusive(self, *, completing: bool = False) -> Iterator[None]:
        """Hold `out` exclusively inside the block."""
        if self._layer_lock is None:
            yield
            return
        wait = _COMPLETE_WAIT if completing else _START_WAIT
        lock = Lock(self._path(), self._out, self._busy, wait=wait)
        try:
            yield
        finally:
            lock.remove()

    def tidy(self) -> bool:
        """Remove files of writers that ended. Return whether a sharing writer is still running.

        Call it while holding `out` exclusively.
        """
        busy = False
        first = self._path(0).name.removesuffix("000.lock")
        for path in self._out.absolute().parent.iterdir():
            if path.name.startswith(first):
                if is_locked(path):
                    busy = True
                else:
                    place.remove(path)
        for path in place.own_names(self._out):
            place.remove(path)
        return busy

    def close(self) -> None:
        """Release the locks and remove their files."""
        for lock in (self._layer_lock, self._output_lock):
            if lock is not None:
                lock.remove()

    @property
    def _busy(self) -> str:
        return f"another process is writing {self._out}; wait for it, or choose another `out`"

    def _path(self, layer: int | None = None) -> Path:
        return place.lock_path(self._out, "" if layer is None else f".layer-{layer_name(layer)}")
