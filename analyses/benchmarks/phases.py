"""Time the phases of a program without timers in its code: functions are wrapped inside a `with` block.

If a wrapped function calls another one, the time of the inner call counts for the inner phase only. Phases of several
threads may overlap, so their seconds may add up to more than the wall-clock time.
"""

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

Size = Callable[..., int]


@dataclasses.dataclass(frozen=True)
class Wrapped:
    """A function whose calls belong to a phase.

    Attributes:
        phase: Name of the phase.
        owner: The module, class or object in which callers find the function.
        name: Its name there.
        size: Bytes that a call deals with, from its result and its arguments. None: not counted.
        whole: Whether what it calls belongs to it, wrapped or not.
    """

    phase: str
    owner: object
    name: str
    size: Size | None = None
    whole: bool = False


@dataclasses.dataclass
class Spent:
    """The time of a phase.

    Attributes:
        caller: Seconds in the thread that the `with` block runs in.
        beside: Seconds in other threads.
        count: Bytes.
        calls: Calls of its functions.
    """

    caller: float = 0.0
    beside: float = 0.0
    count: int = 0
    calls: int = 0

    @property
    def seconds(self) -> float:
        """Seconds, summed over threads."""
        return self.caller + self.beside


class Phases:
    """The phases of the code that runs while `watched`.

    Args:
        functions: What is wrapped.
        settle: Called before every reading of the clock in the thread that the `with` block runs in, such as
            `torch.cuda.synchronize`: without it, what a device has been asked counts where somebody waits for it.
    """

    def __init__(self, functions: Sequence[Wrapped], settle: Callable[[], object] | None = None):
        self.spent = {function.phase: Spent() for function in functions}
        self._functions = functions
        self._settle = settle
        self._running = threading.local()
        self._lock = threading.Lock()
        self._caller = threading.get_ident()

    @contextmanager
    def watched(self) -> Iterator["Phases"]:
        """Wrap the functions inside the block."""
        self._caller = threading.get_ident()
        with ExitStack() as stack:
            for function in self._functions:
                wrapper = self._wrapper(getattr(function.owner, function.name), function)
                stack.enter_context(mock.patch.object(function.owner, function.name, wrapper))
            yield self

    def _wrapper(self, inner: Callable[..., Any], function: Wrapped) -> Callable[..., Any]:
        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            stack: list[_Call] = self._stack()
            if stack and stack[-1].whole:
                return inner(*args, **kwargs)
            call = _Call(function.whole, self._now())
            stack.append(call)
            result = None
            try:
                result = inner(*args, **kwargs)
                return result
            finally:
                stack.pop()
                took = self._now() - call.start
                if stack:
                    stack[-1].inner += took
                size = function.size(result, *args, **kwargs) if function.size else 0
                self._add(function.phase, took - call.inner, size)

        return outer

    def _add(self, phase: str, seconds: float, size: int) -> None:
        with self._lock:
            spent = self.spent[phase]
            if threading.get_ident() == self._caller:
                spent.caller += seconds
            else:
                spent.beside += seconds
            spent.count += size
            spent.calls += 1

    def _stack(self) -> list["_Call"]:
        if not hasattr(self._running, "stack"):
            self._running.stack = []
        return self._running.stack

    def _now(self) -> float:
        if self._settle is not None and threading.get_ident() == self._caller:
            self._settle()
        return time.perf_counter()


@dataclasses.dataclass
class _Call:
    whole: bool
    start: float
    inner: float = 0.0
