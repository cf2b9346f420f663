"""The one cache: what is used stays, what is large goes first, and nothing is made twice."""

import threading

import numpy as np
import pytest
from ssmlens_dashboard.views.cache import CACHE, MOST, Cache, size_of

BIG = 1 << 20


def large(number):
    return np.full(BIG // 8, number, dtype=np.float64)


def test_the_least_used_of_the_large_things_goes_first():
    cache = Cache(3 * BIG)
    for key in "abc":
        cache.get(key, lambda: large(0))
    cache.get("small", lambda: 1.0)  # one byte too many
    assert [key in cache for key in "abc"] == [False, True, True]
    cache.get("b", lambda: pytest.fail("it is kept"))
    cache.get("d", lambda: large(1))
    assert [key in cache for key in "bcd"] == [True, False, True]
    assert "small" in cache, "it frees nothing"


def test_small_things_go_where_nothing_else_is_left_and_the_newest_always_stays():
    cache = Cache(1000)
    for number in range(100):
        cache.get(number, lambda: b"x" * 100)
    assert [number for number in range(100) if number in cache] == list(range(90, 100))
    cache.get("huge", lambda: large(2))
    assert "huge" in cache
    cache.clear()
    assert "huge" not in cache


def test_what_fails_is_not_kept_and_what_two_ask_for_is_made_once():
    cache = Cache(BIG)
    with pytest.raises(ZeroDivisionError):
        cache.get("key", lambda: 1 / 0)
    made, begun, go_on = [], threading.Event(), threading.Event()

    def make():
        begun.set()
        assert go_on.wait(20)
        made.append(len(made))
        return "value"

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(cache.get("key", make))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert (made, found) == ([0], ["value"] * 3)


def test_sizes_are_those_of_what_is_held():
    assert size_of(large(0)) == BIG
    assert size_of({"layout": {"images": [{"source": "x" * 5000}]}}) > 5000
    assert size_of(None) > 0
    assert 0 < CACHE._budget <= MOST
