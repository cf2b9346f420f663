"""Prepare in the background what a reader may ask for next."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from ssmlens.errors import SsmlensError

Make = Callable[[], object]
"""Computes a value that a cache keeps."""


class Ahead:
    """Run calls in a thread after a short pause, unless newer calls replace them first.

    Calls run one at a time. A repeated call runs again from its start, so each should fill a cache, which computes
    nothing twice.

    Args:
        pause: Seconds before the first call; meanwhile the browser draws the current page.
    """

    def __init__(self, pause: float):
        self._pause = pause
        self._lock = threading.Lock()
        self._waiting: threading.Timer | None = None

    def make(self, calls: Sequence[Make]) -> None:
        """Run these calls in order, in place of all earlier calls that have not begun."""
        timer = threading.Timer(self._pause, self._make, [tuple(calls)])
        # By default the timer inherits the daemon flag of the request's thread. A daemon that is stopped during a read
        # at exit can crash the process or leave it waiting for a lock.
        timer.daemon = False
        with self._lock:
            before, self._waiting = self._waiting, timer
        if before is not None:
            before.cancel()
        timer.start()

    def _make(self, calls: tuple[Make, ...]) -> None:
        for call in calls:
            ending = not threading.main_thread().is_alive()
            if ending or self._waiting is not threading.current_thread():
                return
            with suppress(SsmlensError):  # the page that needs it will show the error
                call()
