"""Results kept by what they were made of, the least used first to go."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """A cache of a bounded size, for several threads; the same thing is never made twice at once.

    Keys hold the digest of what they were made of, so nothing in it can be out of date.

    Args:
        budget: The sizes of all it keeps, at most.
        size: The size of a thing.
    """

    def __init__(self, budget: int, size: Callable[[T], int]):
        self._budget = budget
        self._size = size
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def has(self, key: Hashable) -> bool:
        """Whether something is kept under `key`."""
        with self._lock:
            return key in self._held

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under `key`, made now if it is not there."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            alone = self._making.setdefault(key, threading.Lock())
        with alone:
            with self._lock:
                if key in self._held:
                    return self._held[key]
            try:
                made = make()
            finally:
                with self._lock:
                    self._making.pop(key, None)
            with self._lock:
                self._held[key] = made
                total = sum(map(self._size, self._held.values()))
                while total > self._budget and len(self._held) > 1:
                    _, oldest = self._held.popitem(last=False)
                    total -= self._size(oldest)
            return made
