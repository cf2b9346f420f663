"""The pool against an engine of the test's own, whose workers do what a script says, without processes or clocks."""

import itertools

import pytest

from ssmlens.errors import SsmlensError
from ssmlens.training import pool
from ssmlens.training.engines.engine import Engine, Place, Report, Worker
from ssmlens.training.pool import Outcome, run_pool


class Scripted(Worker):
    """A worker that says what `play(pack)` yields, and notes what it was given."""

    def __init__(self, play, given, first):
        self.play, self.given, self.ended = play, given, False
        self.says = iter([first])

    def send(self, pack):
        self.given.append(list(pack))
        self.says = iter(list(self.play(list(pack))))

    def receive(self):
        return next(self.says)

    def end(self):
        assert not self.ended
        self.ended = True


class ScriptedEngine(Engine):
    def __init__(self, play, places=1, first=lambda: None):
        self.places = [Place("cpu")] * places
        self.play, self.first = play, first
        self.given, self.started = [], []

    def start(self, work, place):
        self.started.append(Scripted(self.play, self.given, self.first()))
        return self.started[-1]

    def wait(self, workers, seconds):
        peeked = []
        for worker in workers:
            assert not worker.ended
            worker.says, copy = itertools.tee(worker.says)
            peeked += [worker] if list(copy) else []
        return peeked

    def __exit__(self, *error):
        pass


def work(pack, place, told, beat):
    raise AssertionError("the scripted workers do not work")


def run(packs, engine, **options):
    ends = list(run_pool(packs, work, engine, **{"hang_after": 60.0, **options}))
    assert all(worker.ended for worker in engine.started)
    return ends


def ended(pack):
    return [Report(k, "done") for k in range(len(pack))] + [Report(None, "ended")]


def test_every_job_ends_once_and_workers_take_pack_after_pack():
    engine = ScriptedEngine(ended, places=5)
    ends = run([[1, 2], [3], [4, 5, 6]], engine)
    assert sorted(ends) == [Outcome(job, "done") for job in range(1, 7)]
    assert engine.given == [[1, 2], [3], [4, 5, 6]]
    assert len(engine.started) == 3  # no more than there are packs
    engine = ScriptedEngine(ended)
    assert len(run([[1, 2], [3], [4, 5, 6]], engine)) == 6
    assert len(engine.started) == 1
    assert run([], ScriptedEngine(ended)) == []


@pytest.mark.parametrize("state", ["crashed", "out of memory"])
def test_what_a_lost_pack_did_not_tell_is_begun_again_alone(state):
    """Job 3 takes its worker down whenever it is there; 1 was done before."""

    def play(pack):
        if 3 not in pack:
            return ended(pack)
        return [Report(0, "done")] * (pack[0] == 1) + [Report(None, state, "why")]

    engine = ScriptedEngine(play)
    ends = run([[1, 2, 3, 4], [5]], engine)
    assert engine.given == [[1, 2, 3, 4], [5], [2], [3], [4], [3]]
    assert sorted(ends) == [
        Outcome(1, "done"),
        Outcome(2, "done"),
        Outcome(3, "lost", f"{state} 3 times: why"),
        Outcome(4, "done"),
        Outcome(5, "done"),
    ]
    assert (
        len(engine.started) == 3
    )  # each of the first two crashes but the last, which nobody follows


def test_a_silent_worker_is_ended_and_a_sign_of_life_puts_it_off(monkeypatch):
    now = itertools.count(0.0, 1.0)  # a second whenever somebody looks
    monkeypatch.setattr(pool.time, "monotonic", lambda: next(now))

    def play(pack):
        return [None] * 200 + ended(pack) if pack == ["slow"] else [None]

    ends = run([["slow"]], ScriptedEngine(play), hang_after=30.0)
    assert ends == [Outcome("slow", "done")]
    ends = run([["silent", "too"]], ScriptedEngine(play), hang_after=30.0, attempts=2)
    told = "hung 2 times: it gave no sign of life for 30 s"
    assert ends == [Outcome("silent", "lost", told), Outcome("too", "lost", told)]


def test_an_error_that_would_come_again_fails_a_job_and_is_asked_for_each_of_a_pack():
    def play(pack):
        if len(pack) == 2:
            return [Report(None, "failed", "no such device")]
        return [Report(0, "failed", "no")] * (pack == [1]) + [Report(None, "failed", "never")]

    engine = ScriptedEngine(play)
    ends = run([[1, 2]], engine)
    assert ends == [Outcome(1, "failed", "no"), Outcome(2, "failed", "never")]
    assert len(engine.started) == 1  # such a worker is sound


def test_jobs_that_are_elsewhere_are_asked_for_again_together_for_as_long_as_it_takes(monkeypatch):
    monkeypatch.setattr(pool, "_ELSEWHERE", 0.0)
    asked = []

    def play(pack):
        asked.append(pack)
        away = [job for job in pack if job != 2] if len(asked) < 9 else []
        ends = [Report(k, "elsewhere" if job in away else "done") for k, job in enumerate(pack)]
        return [*ends, Report(None, "ended")]

    ends = run([[1, 2, 3]], ScriptedEngine(play))
    assert sorted(ends) == [Outcome(job, "done") for job in (1, 2, 3)]
    assert asked == [[1, 2, 3]] + [[1, 3]] * 8


def test_settled_jobs_are_skipped_when_a_pack_is_handed_out():
    settled = {2}

    def play(pack):
        settled.update({5, 6})  # another launcher, meanwhile
        return ended(pack)

    engine = ScriptedEngine(play)
    ends = run([[1, 2, 3], [4, 5], [6]], engine, skip=lambda job: job in settled)
    assert engine.given == [[1, 3], [4]]
    assert {end.job: end.state for end in ends} == {
        **dict.fromkeys([1, 3, 4], "done"),
        **dict.fromkeys([2, 5, 6], "skipped"),
    }


def test_workers_that_cannot_start_stop_it_and_one_that_died_once_does_not():
    told = itertools.chain([Report(None, "crashed", "its machine is gone")], itertools.repeat(None))
    assert run([[1]], ScriptedEngine(ended, first=lambda: next(told))) == [Outcome(1, "done")]
    dead = ScriptedEngine(ended, first=lambda: Report(None, "crashed", "exit code 1"))
    with pytest.raises(SsmlensError, match="a worker cannot start: exit code 1; see above"):
        run([[1]], dead)
    assert len(dead.started) == 3
    assert all(worker.ended for worker in dead.started)
