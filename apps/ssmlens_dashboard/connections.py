"""The open connections, each with a thread: how many there may be, how long one may take, and which is cut first."""

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from ssmlens.files.descriptors import share

_A_MOMENT = 0.5  # seconds in which the thread of a cut connection ends
Phase = Literal["reading", "working", "writing", "cut"]


@dataclasses.dataclass(frozen=True)
class _State:
    """What a connection's thread does, and since when."""

    phase: Phase
    since: float


class Connections:
    """The open sockets, at most `share()` of them; for several threads.

    To cut a connection is to shut its socket down: the thread that reads or writes there then ends.
    """

    def __init__(self):
        self._states: dict[socket.socket, _State] = {}
        self._fewer = threading.Condition()

    def __len__(self) -> int:
        return len(self._states)

    def admit(self, connection: socket.socket) -> bool:
        """Enter a connection. Where there is no room, the one whose client has kept it waiting longest is cut.

        Returns:
            Whether there was room. There is none while every connection is being answered.
        """
        with self._fewer:
            if len(self._states) >= share() and self._cut_oldest():
                self._fewer.wait_for(lambda: len(self._states) < share(), _A_MOMENT)
            if len(self._states) >= share():
                return False
            self._states[connection] = _State("reading", time.monotonic())
            return True

    def forget(self, connection: socket.socket) -> None:
        """Take out a connection that is closed."""
        with self._fewer:
            self._states.pop(connection, None)
            self._fewer.notify_all()

    def make_room(self) -> None:
        """Cut the connection whose client has kept it waiting longest; wait a moment for its thread to end."""
        with self._fewer:
            before = len(self._states)
            self._cut_oldest()
            self._fewer.wait_for(lambda: len(self._states) < before, _A_MOMENT)

    def reads(self, connection: socket.socket) -> None:
        """Note that a request has begun: its time counts from here."""
        self._enter(connection, "reading")

    @contextmanager
    def at_work(self, connection: socket.socket) -> Iterator[None]:
        """A block that makes an answer. Its connection is not cut until the block ends."""
        self._enter(connection, "working")
        try:
            yield
        finally:
            self._enter(connection, "writing")

    def cut_late(self, seconds: float) -> None:
        """Cut the connections whose request has not arrived whole within so many seconds."""
        late = time.monotonic() - seconds
        with self._fewer:
            for connection, state in self._states.items():
                if state.phase == "reading" and state.since < late:
                    self._cut(connection)

    def cut_all(self) -> None:
        """Cut every connection."""
        with self._fewer:
            for connection in self._states:
                self._cut(connection)

    def _enter(self, connection: socket.socket, phase: Phase) -> None:
        with self._fewer:
            state = self._states.get(connection)
            if state is not None and state.phase != "cut":
                self._states[connection] = _State(phase, time.monotonic())

    def _cut_oldest(self) -> bool:
        """Cut the connection whose client has kept it waiting longest; whether there was one."""
        waiting = [c for c, s in self._states.items() if s.phase in ("reading", "writing")]
        if not waiting:
            return False
        self._cut(min(waiting, key=lambda connection: self._states[connection].since))
        return True

    def _cut(self, connection: socket.socket) -> None:
        self._states[connection] = _State("cut", self._states[connection].since)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
