"""The open connections, one thread each: their number, their time limits, and which is cut first."""

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from ssmlens.files.descriptors import share

_CUT_WAIT = 0.5  # seconds for the thread of a cut connection to end
Phase = Literal["reading", "working", "writing", "cut"]


@dataclasses.dataclass(frozen=True)
class _State:
    """The phase of a connection, and when it began."""

    phase: Phase
    since: float


class Connections:
    """The open sockets, at most `share()` of them. Thread-safe.

    Cutting a connection shuts its socket down, which ends the thread that reads or writes there.
    """

    def __init__(self):
        self._states: dict[socket.socket, _State] = {}
        self._freed = threading.Condition()

    def __len__(self) -> int:
        return len(self._states)

    def admit(self, connection: socket.socket) -> bool:
        """Add a connection. If there is no room, cut the one that has waited longest for its client.

        Returns:
            False if there was no room: every connection is being answered.
        """
        with self._freed:
            if len(self._states) >= share() and self._cut_oldest():
                self._freed.wait_for(lambda: len(self._states) < share(), _CUT_WAIT)
            if len(self._states) >= share():
                return False
            self._states[connection] = _State("reading", time.monotonic())
            return True

    def forget(self, connection: socket.socket) -> None:
        """Remove a closed connection."""
        with self._freed:
            self._states.pop(connection, None)
            self._freed.notify_all()

    def make_room(self) -> None:
        """Cut the connection that has waited longest for its client; wait briefly for its thread to end."""
        with self._freed:
            before = len(self._states)
            self._cut_oldest()
            self._freed.wait_for(lambda: len(self._states) < before, _CUT_WAIT)

    def reads(self, connection: socket.socket) -> None:
        """Note that a request has begun; its time limit starts now."""
        self._enter(connection, "reading")

    @contextmanager
    def at_work(self, connection: socket.socket) -> Iterator[None]:
        """Mark a block that computes an answer. Its connection is not cut until the block ends."""
        self._enter(connection, "working")
        try:
            yield
        finally:
            self._enter(connection, "writing")

    def cut_late(self, seconds: float) -> None:
        """Cut connections whose request has been incomplete for longer than `seconds`."""
        late = time.monotonic() - seconds
        with self._freed:
            for connection, state in self._states.items():
                if state.phase == "reading" and state.since < late:
                    self._cut(connection)

    def cut_all(self) -> None:
        """Cut every connection."""
        with self._freed:
            for connection in self._states:
                self._cut(connection)

    def _enter(self, connection: socket.socket, phase: Phase) -> None:
        with self._freed:
            state = self._states.get(connection)
            if state is not None and state.phase != "cut":
                self._states[connection] = _State(phase, time.monotonic())

    def _cut_oldest(self) -> bool:
        """Cut the connection that has waited longest for its client. Return False if there is none."""
        waiting = [c for c, s in self._states.items() if s.phase in ("reading", "writing")]
        if not waiting:
            return False
        self._cut(min(waiting, key=lambda connection: self._states[connection].since))
        return True

    def _cut(self, connection: socket.socket) -> None:
        self._states[connection] = _State("cut", self._states[connection].since)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
