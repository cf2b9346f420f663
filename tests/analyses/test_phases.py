"""Phases count their own seconds, and leave the functions as they were."""

import threading
import types

import pytest

from analyses.benchmarks import phases
from analyses.benchmarks.phases import Phases, Wrapped


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `pass_time` moves."""
    now = [0.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now[0])

    def pass_time(seconds):
        now[0] += seconds

    return pass_time


@pytest.fixture
def program(clock):
    """outer = 1 s, inner (2 s), inner, 4 s."""
    program = types.SimpleNamespace()

    def inner(size):
        clock(2)
        return b"x" * size

    def outer():
        clock(1)
        program.inner(3)
        program.inner(4)
        clock(4)

    program.inner, program.outer = inner, outer
    return program


def test_a_phase_has_the_seconds_that_no_inner_one_has(program):
    before = program.inner
    inner = Wrapped("inner", program, "inner", lambda result, size: len(result))
    watched = Phases([Wrapped("outer", program, "outer"), inner])
    with watched.watched():
        program.outer()
    assert program.inner is before
    assert watched.spent["outer"].caller == 5
    assert watched.spent["inner"].caller == 4
    assert (watched.spent["inner"].calls, watched.spent["inner"].count) == (2, 7)


def test_a_whole_phase_has_what_it_calls(program):
    watched = Phases(
        [Wrapped("outer", program, "outer", whole=True), Wrapped("inner", program, "inner")]
    )
    with watched.watched():
        program.outer()
    assert watched.spent["outer"].seconds == 9
    assert watched.spent["inner"].calls == 0


def test_other_threads_are_beside_and_errors_count(program):
    watched = Phases([Wrapped("inner", program, "inner")])
    with watched.watched():
        thread = threading.Thread(target=program.inner, args=(1,))
        thread.start()
        thread.join()
        with pytest.raises(TypeError):
            program.inner("x")
    assert (watched.spent["inner"].caller, watched.spent["inner"].beside) == (2, 2)
