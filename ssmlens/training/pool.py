"""Process packs of jobs on workers that may crash, hang or run out of memory. Knows nothing of training."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from ssmlens.errors import SsmlensError
from ssmlens.training.engines.engine import Engine, Place, Report, Work, Worker

Job = TypeVar("Job")

# Seconds before a job that runs elsewhere is tried again, and seconds to wait for a report.
_ELSEWHERE, _WAIT = 1.0, 0.2


class Outcome(NamedTuple, Generic[Job]):
    """How a job ended.

    Attributes:
        job: The job.
        state: "done"; "failed", for an error that would occur again; "lost", after several attempts; "skipped".
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
    """Process the packs, one at a time on each of the engine's places; yield each job's outcome once, as it ends.

    If a worker crashes, runs out of memory or gives no sign of life, the unfinished jobs of its pack are restarted by
    another worker, one by one, so that none takes down its neighbours twice. A job gets `attempts` attempts in all. A
    job that runs elsewhere is tried again later; that does not count as an attempt.

    Args:
        packs: The jobs, grouped into packs that are processed together; each job is pickled.
        work: A function of a module; see `Work`.
        engine: Starts the workers; entered by the caller.
        hang_after: Seconds without a sign of life, after which a worker is ended.
        attempts: Most attempts for each job.
        skip: Called before a job is started; true if nothing is to be done.

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
    """A pack, the attempts made so far, and the earliest time to start it."""

    pack: Sequence[Any]
    attempts: int = 0
    after: float = 0.0


class _Seat:
    """A worker, and the pack that it is working on."""

    def __init__(self, worker: Worker, place: Place):
        self.worker, self.place = worker, place
        self.ready = False  # true once the worker has imported the work
        self.current: _Waiting | None = None
        self.last_report = 0.0
        self.unfinished: dict[int, Any] = {}  # jobs of its pack without a report
        self.elsewhere: list[Any] = []

    @property
    def idle(self) -> bool:
        return self.ready and self.current is None

    def assign(self, waiting: _Waiting) -> None:
        self.current, self.last_report = waiting, time.monotonic()
        self.unfinished, self.elsewhere = dict(enumerate(waiting.pack)), []
        self.worker.send(waiting.pack)


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
        self._false_starts = 0  # since a worker last became ready
        self.seats: list[_Seat] = []

    def run(self) -> Iterator[Outcome[Job]]:
        """See `run_pool`."""
        while self._waiting or any(seat.current is not None for seat in self.seats):
            self._start_and_end_workers()
            yield from self._assign_packs()
            reporting = self._engine.wait([seat.worker for seat in self.seats], _WAIT)
            for seat in list(self.seats):
                silent = time.monotonic() - seat.last_report
                if seat.worker in reporting:
                    yield from self._receive(seat, seat.worker.receive())
                elif seat.current is not None and silent > self._hang_after:
                    error = f"it gave no sign of life for {self._hang_after:g} s"
                    yield from self._finish_pack(seat, "hung", error)

    def _start_and_end_workers(self) -> None:
        """Start workers while there are packs for them; without packs, end idle workers."""
        missing = len(self._waiting) - sum(seat.current is None for seat in self.seats)
        for place in self._free[: max(missing, 0)]:
            self._free.remove(place)
            self.seats.append(_Seat(self._engine.start(self._work, place), place))
        if not self._waiting:
            for seat in [seat for seat in self.seats if seat.current is None]:
                self._dismiss(seat)

    def _dismiss(self, seat: _Seat) -> None:
        seat.worker.end()
        self.seats.remove(seat)
        self._free.append(seat.place)

    def _assign_packs(self) -> Iterator[Outcome[Job]]:
        for seat in self.seats:
            for _ in range(len(self._waiting)):
                if not seat.idle:
                    break
                waiting = self._waiting.popleft()
                if waiting.after > time.monotonic():
                    self._waiting.append(waiting)
                    continue
                skipped = [self._skip(job) for job in waiting.pack]
                pairs = list(zip(waiting.pack, skipped, strict=True))
                yield from (Outcome(job, "skipped") for job, skip in pairs if skip)
                if pack := [job for job, skip in pairs if not skip]:
                    seat.assign(waiting._replace(pack=pack))

    def _receive(self, seat: _Seat, report: Report | None) -> Iterator[Outcome[Job]]:
        if not seat.ready and report is not None:
            self._dismiss(seat)
            self._false_starts += 1
            if self._false_starts >= self._attempts:
                raise SsmlensError(f"a worker cannot start: {report.error}; see above")
            return
        self._false_starts, seat.ready, seat.last_report = 0, True, time.monotonic()
        if report is None:
            return
        if report.job is None:
            yield from self._finish_pack(seat, report.state, report.error)
        elif report.job in seat.unfinished:
            job = seat.unfinished.pop(report.job)
            if report.state == "elsewhere":
                seat.elsewhere.append(job)
            else:
                yield Outcome(job, report.state, report.error)

    def _finish_pack(self, seat: _Seat, state: str, error: str) -> Iterator[Outcome[Job]]:
        """Handle the end of a worker's pack: restart its unfinished jobs, or give them up."""
        ended, seat.current = seat.current, None
        if state not in ("ended", "failed"):  # its process is gone, or in an unknown state
            self._dismiss(seat)
        if ended is None:
            return
        if seat.elsewhere:
            after = time.monotonic() + _ELSEWHERE
            self._waiting.append(_Waiting(seat.elsewhere, ended.attempts, after))
        attempts = ended.attempts + 1
        for job in seat.unfinished.values():
            if state == "failed" and len(ended.pack) == 1:
                yield Outcome(job, "failed", error)
            elif attempts < self._attempts:
                self._waiting.append(_Waiting([job], attempts))
            else:
                yield Outcome(job, "lost", f"{state} {attempts} times: {error}")
