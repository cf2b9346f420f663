"""The dashboard's one cache: results by the digest of their input, least recently used dropped first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from ssmlens_dashboard.views.memory import memory

T = TypeVar("T")

MOST = 1 << 30
"""Most bytes in the cache; an eighth of the memory if that is less."""

_SMALL = 1 << 16  # bytes; smaller values are dropped last, as they free little
_LEAST = 64  # bytes counted for any value


class Cache:
    """A cache of bounded size. Thread-safe: two threads never compute the same value at once.

    A key contains the digest of its input, so no value can be out of date.

    Args:
        budget: Most bytes in the cache.
    """

    def __init__(self, budget: int):
        self._budget = budget
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._total = 0
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._values

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._values.clear()
            self._total = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of `key`; compute it with `make` if it is missing."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            try:
                value = make()
            finally:
                with self._lock:
                    self._making.pop(key, None)
            with self._lock:
                self._values[key] = value
                self._total += size_of(value)
                while self._total > self._budget and len(self._values) > 1:
                    self._total -= size_of(self._values.pop(self._first_to_go()))
            return value

    def _first_to_go(self) -> Hashable:
        """Return the least recently used large value, else the least recently used; never the newest."""
        *older, _ = self._values
        return next((key for key in older if size_of(self._values[key]) >= _SMALL), older[0])


def size_of(value: Any) -> int:
    """Estimate the bytes of a value."""
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
    """Return the most bytes that the dashboard may cache on this machine."""
    return min(MOST, memory() // 8)


CACHE = Cache(budget())
"""The dashboard's cache."""
