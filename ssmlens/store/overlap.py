"""Write shards in the background while the caller computes the next layer."""

import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

Job = Callable[[], Callable[[], None]]
"""Encodes and writes a shard, and returns what then waits for the disk. That needs none of the shard's arrays."""

AT_ONCE = 2
"""Number of shards that are encoded at a time, however large."""
SMALL_BYTES = 1 << 27
"""Bytes that more shards may have together if they are encoded at a time."""
# Cores from which there is room for more threads beside the caller.
_MANY_CORES = 8


def most_at_once() -> int:
    """Number of small shards that are encoded at a time on this machine."""
    return 4 if (os.cpu_count() or 1) >= _MANY_CORES else AT_ONCE


class Overlap:
    """Runs a few jobs at a time in threads. `start` blocks while the limit is reached, which bounds memory.

    Threads suffice: nearly all the work (digests, chunks, the disk) releases the interpreter lock. They share the
    caller's arrays and end with the process.

    Args:
        at_once: Number of shards that are encoded at a time; as many again wait for the disk.
        most: The same where they have at most `SMALL_BYTES` together.

    Attributes:
        threads: A pool for the digests of the jobs, one thread a job.
    """

    def __init__(self, at_once: int = AT_ONCE, most: int = AT_ONCE):
        self._at_once, self._most = at_once, most
        self.threads = ThreadPoolExecutor(most, thread_name_prefix="ssmlens-digests")
        self._jobs = ThreadPoolExecutor(most, thread_name_prefix="ssmlens-shards")
        self._ends = ThreadPoolExecutor(most, thread_name_prefix="ssmlens-syncs")
        self._unsynced = threading.Semaphore(most)
        self._running: dict[Hashable, Future[Future[None]]] = {}
        self._sizes: dict[Hashable, int] = {}

    def start(self, name: Hashable, job: Job, size: int = 0) -> None:
        """Start a job; wait first for others to end if there are too many. Raises the error of a job that ended.

        Args:
            name: Its name.
            job: The job.
            size: Bytes of its arrays.
        """
        encoding = self._encoding()
        while not self._fits(encoding, size):
            wait([self._running[other] for other in encoding], return_when=FIRST_COMPLETED)
            encoding = self._encoding()
        for ended in [name for name, future in self._running.items() if _has_ended(future)]:
            self.join(ended)
        self._sizes[name] = size
        self._running[name] = self._jobs.submit(self._run, job)

    def join(self, name: Hashable) -> None:
        """Wait for the job of that name, if there is one. Raises its error."""
        if name in self._running:
            self._sizes.pop(name)
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

    def _encoding(self) -> list[Hashable]:
        return [name for name, future in self._running.items() if not future.done()]

    def _fits(self, encoding: list[Hashable], size: int) -> bool:
        small = size + sum(self._sizes[name] for name in encoding) <= SMALL_BYTES
        return len(encoding) < (self._most if small else self._at_once)

    def _run(self, job: Job) -> Future[None]:
        end = job()
        self._unsynced.acquire()
        future = self._ends.submit(end)
        future.add_done_callback(lambda _: self._unsynced.release())
        return future


def _has_ended(future: Future[Future[None]]) -> bool:
    return future.done() and (future.exception() is not None or future.result().done())
