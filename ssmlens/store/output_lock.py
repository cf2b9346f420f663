"""Who writes a capture: one writer alone, or several that share it, each with layers of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssmlens.errors import BusyError
from ssmlens.files import place
from ssmlens.files.lock import Lock, is_locked
from ssmlens.store.schema import layer_name

# Seconds that one of several waits for the others: while they begin, and while one completes the capture.
_BEGIN, _COMPLETE = 30.0, 86_400.0


class OutputLock:
    """The right to write `out`, until `close`. Beside `out` lie, while somebody writes it,

        .NAME.lock             held by who writes alone; by one of several while it begins, or completes the capture
        .NAME.layer-005.lock   held by one of several: its first layer

    Args:
        out: The file or folder that is written.
        layer: The first layer of one of several writers. None: it writes alone.

    Raises:
        BusyError: Another process writes it.
        SsmlensError: The locks cannot be made.
    """

    def __init__(self, out: Path, layer: int | None = None):
        self._out = out
        self._all: Lock | None = None
        self._own: Lock | None = None
        if layer is None:
            self._all = Lock(self._path(), out, self._busy)
            try:
                if self.tidy():
                    raise BusyError(self._busy)
            except BaseException:
                self.close()
                raise
        else:
            self._own = Lock(self._path(layer), out, f"{self._busy} (its layer {layer})")

    @contextmanager
    def alone(self, *, completing: bool = False) -> Iterator[None]:
        """Keep all others from `out` in the block."""
        if self._own is None:
            yield
            return
        lock = Lock(self._path(), self._out, self._busy, wait=_COMPLETE if completing else _BEGIN)
        try:
            yield
        finally:
            lock.remove()

    def tidy(self) -> bool:
        """Remove what writers left that are gone; to be called by who is alone. Whether one of several still writes."""
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
        """Let others write. The locks' files go."""
        for lock in (self._own, self._all):
            if lock is not None:
                lock.remove()

    @property
    def _busy(self) -> str:
        return f"another process is writing {self._out}; wait for it, or choose another `out`"

    def _path(self, layer: int | None = None) -> Path:
        return place.lock_path(self._out, "" if layer is None else f".layer-{layer_name(layer)}")
