"""Write shards in the background while the caller computes the next layer."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

Job = Callable[[], Callable[[], None]]
"""Encodes and writes a shard, and returns what then waits for the disk. That needs none of the shard's arrays."""


class Overlap:
    """Runs a few jobs at a time in threads. `start` blocks while the limit is reached, which bounds memory.

    Threads suffice: nearly all the work (digests, chunks, the disk) releases the interpreter lock. They share the
    caller's arrays and end with the process.

    Args:
        at_once: Number of shards that are encoded at a time; as many again wait for the disk.

    Attributes:
        threads: A pool for the digests of the jobs, one thread a job.
    """

    def __init__(self, at_once: int = 2):
        self._at_once = at_once
        self.threads = ThreadPoolExecutor(at_once, thread_name_prefix="ssmlens-digests")
        self._jobs = ThreadPoolExecutor(at_once, thread_name_prefix="ssmlens-shards")
        self._ends = ThreadPoolExecutor(at_once, thread_name_prefix="ssmlens-syncs")
        self._unsynced = threading.Semaphore(at_once)
        self._running: dict[Hashable, Future[Future[None]]] = {}

    def start(self, name: Hashable, job: Job) -> None:
        """Start a job; wait first for one to end if there are too many. Raises the error of a job that ended."""
        encoding = [future for future in self._running.values() if not future.done()]
        if len(encoding) == self._at_once:
            wait(encoding, return_when=FIRST_COMPLETED)
        for ended in [name for name, future in self._running.items() if _has_ended(future)]:
            self.join(ended)
        self._running[name] = self._jobs.submit(self._run, job)

    def join(self, name: Hashable) -> None:
        """Wait for the job of that name, if there is one. Raises its error."""
        if name in self._running:
            self._running.pop(name).result().result()

    def join_all(self) -> None:
        """Wait for all jobs. Raises the error of the first that failed."""
        wait(self._running.values())
        wait([future.result() for future in self._running.values() if not future.exception()])
        for name in list(self._running):
            self.join(name)

    def close(self) -> None:
        """Wait for all jobs, failed or not, and end the threads."""
        self._jobs.shutdown()
        self._ends.shutdown()
        self.threads.shutdown()

    def _run(self, job: Job) -> Future[None]:
        end = job()
        self._unsynced.acquire()
        future = self._ends.submit(end)
        future.add_done_callback(lambda _: self._unsynced.release())
        return future


def _has_ended(future: Future[Future[None]]) -> bool:
    return future.done() and (future.exception() is not None or future.result().done())
