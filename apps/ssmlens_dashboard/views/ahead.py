"""What a reader may ask for next is made while they look: then it is there when they ask."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from ssmlens.errors import SsmlensError

Make = Callable[[], object]
"""Makes a thing that a cache keeps."""


class Ahead:
    """Makes things in a thread, a moment after they are named, unless others are named by then.

    One thing is made at a time, and what is named again is made from its beginning: it is for caches, which make
    nothing twice.

    Args:
        pause: Seconds before the first: the browser draws what was asked for meanwhile.
    """

    def __init__(self, pause: float):
        self._pause = pause
        self._lock = threading.Lock()
        self._waiting: threading.Timer | None = None

    def make(self, things: Sequence[Make]) -> None:
        """Make these, in this order, in place of all that is not begun."""
        timer = threading.Timer(self._pause, self._make, [tuple(things)])
        # A request's thread is a daemon and would make this one too: stopped in the middle of a read at exit, it takes
        # the process down or leaves it waiting for a lock.
        timer.daemon = False
        with self._lock:
            before, self._waiting = self._waiting, timer
        if before is not None:
            before.cancel()
        timer.start()

    def _make(self, things: tuple[Make, ...]) -> None:
        for thing in things:
            ending = not threading.main_thread().is_alive()
            if ending or self._waiting is not threading.current_thread():
                return
            with suppress(SsmlensError):  # whoever asks for it is told
                thing()
