"""Work off packs of jobs, whatever happens to the workers: crashes, hangs, full memory. Knows nothing of training."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from ssmlens.errors import SsmlensError
from ssmlens.training.engines.engine import Engine, Place, Told, Work, Worker

Job = TypeVar("Job")

# Seconds until a job that is elsewhere is asked for again, and that are waited for a word at most.
_ELSEWHERE, _WAIT = 1.0, 0.2


class Outcome(NamedTuple, Generic[Job]):
    """How a job ended.

    Attributes:
        job: The job.
        state: "done"; "failed", the work said so and would again; "lost", given up after several attempts; "skipped".
        error: Why it is not done, in one line.
    """

    job: Job
    state: str
    error: str = ""


def run_pool(
    packs: Sequence[Sequence[Job]],
    work: Work,
    engine: Engine,
    *,
    hang_after: float,
    attempts: int = 3,
    skip: Callable[[Job], bool] = lambda job: False,
) -> Iterator[Outcome[Job]]:
    """Work off the packs, one at a time on each of the engine's places; yields each job's outcome once, as they come.

    Where a worker crashes, runs out of memory or gives no sign of life, those jobs of its pack that it has not told the
    end of are begun again by another worker, each alone, so that none takes its neighbours down twice; `attempts` times
    in all. A job that is elsewhere is asked for again, which is no attempt.

    Args:
        packs: What is to be done, and what of it together; each job is pickled.
        work: A function of a module; see `Work`.
        engine: Starts the workers; entered by the caller.
        hang_after: Seconds without a sign of life, after which a worker is ended.
        attempts: How often a job is begun.
        skip: Asked before a job is begun; true: it is settled already.

    Raises:
        SsmlensError: Workers cannot be started.
    """
    pool = _Pool(packs, work, engine, hang_after, attempts, skip)
    try:
        yield from pool.run()
    finally:
        for seat in pool.seats:
            seat.worker.end()


class _Waiting(NamedTuple):
    """A pack, how often its jobs were begun, and the time before which it is left alone."""

    pack: Sequence[Any]
    begun: int = 0
    after: float = 0.0


class _Seat:
    """A worker, and what it is at."""

    def __init__(self, worker: Worker, place: Place):
        self.worker, self.place = worker, place
        self.ready = False  # which takes as long as it takes to import the work
        self.at: _Waiting | None = None
        self.heard = 0.0
        self.left: dict[int, Any] = {}  # jobs of its pack that it has said nothing of
        self.elsewhere: list[Any] = []

    @property
    def idle(self) -> bool:
        return self.ready and self.at is None

    def give(self, waiting: _Waiting) -> None:
        self.at, self.heard = waiting, time.monotonic()
        self.left, self.elsewhere = dict(enumerate(waiting.pack)), []
        self.worker.give(waiting.pack)


class _Pool(Generic[Job]):
    def __init__(
        self,
        packs: Sequence[Sequence[Job]],
        work: Work,
        engine: Engine,
        hang_after: float,
        attempts: int,
        skip: Callable[[Job], bool],
    ):
        self._waiting = deque(_Waiting(pack) for pack in packs)
        self._work, self._engine, self._skip = work, engine, skip
        self._hang_after, self._attempts = hang_after, attempts
        self._free = list(engine.places)
        self._false_starts = 0  # since the last worker that was ready
        self.seats: list[_Seat] = []

    def run(self) -> Iterator[Outcome[Job]]:
        """See `run_pool`."""
        while self._waiting or any(seat.at is not None for seat in self.seats):
            self._staff()
            yield from self._hand_out()
            speaking = self._engine.wait([seat.worker for seat in self.seats], _WAIT)
            for seat in list(self.seats):
                if seat.worker in speaking:
                    yield from self._listen(seat, seat.worker.hear())
                elif seat.at is not None and time.monotonic() - seat.heard > self._hang_after:
                    told = f"it gave no sign of life for {self._hang_after:g} s"
                    yield from self._settle(seat, "hung", told)

    def _staff(self) -> None:
        """Start workers while there are packs for them; without packs, end those that are idle."""
        wanted = len(self._waiting) - sum(seat.at is None for seat in self.seats)
        for place in self._free[: max(wanted, 0)]:
            self._free.remove(place)
            self.seats.append(_Seat(self._engine.start(self._work, place), place))
        if not self._waiting:
            for seat in [seat for seat in self.seats if seat.at is None]:
                self._dismiss(seat)

    def _dismiss(self, seat: _Seat) -> None:
        seat.worker.end()
        self.seats.remove(seat)
        self._free.append(seat.place)

    def _hand_out(self) -> Iterator[Outcome[Job]]:
        for seat in self.seats:
            for _ in range(len(self._waiting)):
                if not seat.idle:
                    break
                waiting = self._waiting.popleft()
                if waiting.after > time.monotonic():
                    self._waiting.append(waiting)
                    continue
                settled = [self._skip(job) for job in waiting.pack]
                pairs = list(zip(waiting.pack, settled, strict=True))
                yield from (Outcome(job, "skipped") for job, over in pairs if over)
                if pack := [job for job, over in pairs if not over]:
                    seat.give(waiting._replace(pack=pack))

    def _listen(self, seat: _Seat, told: Told | None) -> Iterator[Outcome[Job]]:
        if not seat.ready and told is not None:
            self._dismiss(seat)
            self._false_starts += 1
            if self._false_starts >= self._attempts:
                raise SsmlensError(f"a worker cannot start: {told.error}; see above")
            return
        self._false_starts, seat.ready, seat.heard = 0, True, time.monotonic()
        if told is None:
            return
        if told.job is None:
            yield from self._settle(seat, told.state, told.error)
        elif told.job in seat.left:
            job = seat.left.pop(told.job)
            if told.state == "elsewhere":
                seat.elsewhere.append(job)
            else:
                yield Outcome(job, told.state, told.error)

    def _settle(self, seat: _Seat, state: str, error: str) -> Iterator[Outcome[Job]]:
        """A worker is through with its pack, one way or the other."""
        at, seat.at = seat.at, None
        if state not in ("ended", "failed"):  # its process is gone, or not to be trusted
            self._dismiss(seat)
        if at is None:
            return
        if seat.elsewhere:
            after = time.monotonic() + _ELSEWHERE
            self._waiting.append(_Waiting(seat.elsewhere, at.begun, after))
        begun = at.begun + 1
        for job in seat.left.values():
            if state == "failed" and len(at.pack) == 1:
                yield Outcome(job, "failed", error)
            elif begun < self._attempts:
                self._waiting.append(_Waiting([job], begun))
            else:
                yield Outcome(job, "lost", f"{state} {begun} times: {error}")
