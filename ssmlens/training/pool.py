"""Worker processes that work off a list of jobs, whatever happens to them: crashes, hangs, full memory.

Knows nothing of training, and imports nothing heavy: a worker that dies is soon replaced.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, Generic, NamedTuple, TypeVar

from ssmlens.errors import SsmlensError

Job = TypeVar("Job")
Place = TypeVar("Place")
# What a worker does: with a job, at its place (a device), calling the third argument now and then as a sign of life.
Work = Callable[[Any, Any, Callable[[], None]], None]

# Seconds between a worker's signs of life that are passed on, and until a job that is elsewhere is asked for again.
_BEAT, _ELSEWHERE = 1.0, 1.0


class ElsewhereError(Exception):
    """Raised by a worker: another launcher's worker has this job now."""


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


class _Worker:
    """A process, and what it is at."""

    def __init__(self, work: Work, place: Any):
        spawn = multiprocessing.get_context("spawn")
        self.place, self.job, self.attempt, self.last = place, None, 0, 0.0
        self.ready = False  # which takes as long as it takes to import the work
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, work, place), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, job: Any, attempt: int) -> None:
        """Hand it a job, which is begun for the `attempt`-th time."""
        self.job, self.attempt, self.last = job, attempt, time.monotonic()
        with contextlib.suppress(OSError):  # it has died: `hear` will tell
            self.pipe.send(job)

    def hear(self) -> tuple[str, str] | None:
        """What it says of its job: (state, error); None for a sign of life."""
        try:
            told = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            ended = f"its process ended with {_exit(self.process.exitcode)}"
            if not self.ready:
                raise SsmlensError(f"a worker cannot start: {ended}; see above") from None
            return "crashed", ended
        self.ready, self.last = True, time.monotonic()
        return told

    def end(self) -> None:
        """Stop it, now."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_pool(
    jobs: Sequence[Job],
    work: Work,
    places: Sequence[Place],
    *,
    hang_after: float,
    attempts: int = 3,
    skip: Callable[[Job], bool] = lambda job: False,
) -> Iterator[Outcome[Job]]:
    """Work off the jobs, one process a place; yields each job's outcome once, as they come.

    A job whose process crashes, runs out of memory, or gives no sign of life is given to a new process, `attempts`
    times in all. Where a worker raises SsmlensError the job has failed. Workers end with this process, however it ends.

    Args:
        jobs: What is to be done; each is pickled.
        work: A function of a module: (job, place, sign of life).
        places: What each worker is told, such as its device.
        hang_after: Seconds without a sign of life, after which a worker is killed.
        attempts: How often a job is begun.
        skip: Asked before a job is begun; true: it is settled already.
    """
    pool = _Pool(jobs, work, attempts, hang_after, skip)
    try:
        yield from pool.run(places)
    finally:
        for worker in pool.workers:
            worker.end()


class _Pool(Generic[Job]):
    def __init__(
        self,
        jobs: Sequence[Job],
        work: Work,
        attempts: int,
        hang_after: float,
        skip: Callable[[Job], bool],
    ):
        # (when it may be begun, job, attempts so far)
        self._waiting = deque((0.0, job, 0) for job in jobs)
        self._work, self._attempts, self._hang_after = work, attempts, hang_after
        self._skip = skip
        self.workers: list[_Worker] = []

    def run(self, places: Sequence[Any]) -> Iterator[Outcome[Job]]:
        """See `run_pool`."""
        for _ in range(len(self._waiting)):  # so that no worker is started for nothing
            first = self._waiting.popleft()
            if self._skip(first[1]):
                yield Outcome(first[1], "skipped")
            else:
                self._waiting.append(first)
        self.workers = [_Worker(self._work, place) for place in places[: len(self._waiting)]]
        while self._waiting or any(worker.job is not None for worker in self.workers):
            yield from self._hand_out()
            ready = connection.wait([worker.pipe for worker in self.workers], 0.2)
            for worker in list(self.workers):
                if worker.pipe in ready:
                    told = worker.hear()
                elif worker.job is None or time.monotonic() - worker.last < self._hang_after:
                    continue
                else:
                    told = ("hung", f"it gave no sign of life for {self._hang_after:g} s")
                if told is not None:
                    yield from self._settle(worker, *told)

    def _hand_out(self) -> Iterator[Outcome[Job]]:
        for worker in self.workers:
            for _ in range(len(self._waiting)):
                if worker.job is not None or not worker.ready:
                    break
                ready, job, begun = self._waiting.popleft()
                if ready > time.monotonic():
                    self._waiting.append((ready, job, begun))
                elif self._skip(job):
                    yield Outcome(job, "skipped")
                else:
                    worker.give(job, begun + 1)

    def _settle(self, worker: _Worker, state: str, error: str) -> Iterator[Outcome[Job]]:
        job, begun = worker.job, worker.attempt
        worker.job = None
        if state not in (
            "done",
            "failed",
            "elsewhere",
        ):  # its process is gone, or not to be trusted
            worker.end()
            self.workers[self.workers.index(worker)] = _Worker(self._work, worker.place)
        if job is None:
            return
        if state in ("done", "failed"):
            yield Outcome(job, state, error)
        elif state == "elsewhere":
            self._waiting.append((time.monotonic() + _ELSEWHERE, job, begun - 1))
        elif begun < self._attempts:
            self._waiting.append((0.0, job, begun))
        else:
            yield Outcome(job, "lost", f"{state} {begun} times: {error}")


def _serve(pipe: connection.Connection, work: Work, place: Any) -> None:
    """A worker: jobs come through the pipe, and what became of them goes back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses Ctrl-C means the launcher
    threading.Thread(target=_end_with_parent, daemon=True).start()
    last = 0.0

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last > _BEAT:
            last = time.monotonic()
            tell(None)

    def tell(told: tuple[str, str] | None) -> None:
        try:
            pipe.send(told)
        except OSError:  # the launcher is gone
            os._exit(1)

    tell(None)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            work(job, place, beat)
        except ElsewhereError:
            tell(("elsewhere", ""))
        except SsmlensError as error:
            tell(("failed", _line(error)))
        except Exception as error:
            full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            tell(("out of memory" if full else "crashed", _line(error)))
        else:
            tell(("done", ""))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _line(error: BaseException) -> str:
    told = " ".join(str(error).split())[:1000]
    if isinstance(error, SsmlensError):
        return told
    return f"{type(error).__name__}: {told}".removesuffix(": ")


def _exit(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
