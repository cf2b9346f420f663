"""What the dashboard keeps of what it made, in one budget: by what it was made of, the least used first to go."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from ssmlens_dashboard.views.memory import memory

T = TypeVar("T")

MOST = 1 << 30
"""Most bytes kept; an eighth of the memory where that is less."""

_SMALL = 1 << 16  # bytes: a thing below goes last, for it frees nothing
_LEAST = 64  # bytes that anything is taken for


class Cache:
    """A cache of a bounded size, for several threads; the same thing is never made twice at once.

    Keys hold the digest of what they were made of, so nothing in it can be out of date.

    Args:
        budget: Bytes of all it keeps, at most.
    """

    def __init__(self, budget: int):
        self._budget = budget
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._total = 0
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._kept

    def clear(self) -> None:
        """Let everything go."""
        with self._lock:
            self._kept.clear()
            self._total = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under `key`, made now if it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            alone = self._making.setdefault(key, threading.Lock())
        with alone:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            try:
                value = make()
            finally:
                with self._lock:
                    self._making.pop(key, None)
            with self._lock:
                self._kept[key] = value
                self._total += size_of(value)
                while self._total > self._budget and len(self._kept) > 1:
                    self._total -= size_of(self._kept.pop(self._first_to_go()))
            return value

    def _first_to_go(self) -> Hashable:
        """The least used of the large ones; of the small ones where no other is left beside the newest."""
        *older, _ = self._kept
        return next((key for key in older if size_of(self._kept[key]) >= _SMALL), older[0])


def size_of(value: Any) -> int:
    """About the bytes that a value takes up."""
    if isinstance(value, np.ndarray | xr.Dataset):
        return max(_LEAST, value.nbytes)
    if isinstance(value, str | bytes):
        return max(_LEAST, len(value))
    if isinstance(value, dict):
        return _LEAST + sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return _LEAST + sum(map(size_of, value))
    return _LEAST


def budget() -> int:
    """Most bytes that the dashboard keeps, by how much memory there is."""
    return min(MOST, memory() // 8)


CACHE = Cache(budget())
"""The dashboard's one."""
