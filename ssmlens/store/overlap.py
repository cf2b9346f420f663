"""Shards written beside the caller, who computes the next layer meanwhile."""

import os
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait


class Overlap:
    """Runs jobs in threads, a few at a time: one more waits in `start`, so that no more than these are held.

    Threads, since nearly all the work (digests, chunks, the disk) lets go of the interpreter; they share the caller's
    arrays, need nothing of the caller's program, and end with it.

    Args:
        at_once: How many jobs at a time: two, so that one is digested while the other waits for the disk.

    Attributes:
        threads: For parts of a job that wait for nothing: as many as cores, but more than four only get in each
            other's and the caller's way (measured on 16 cores).
    """

    def __init__(self, at_once: int = 2):
        self._at_once = at_once
        self.threads = ThreadPoolExecutor(min(4, cores()), thread_name_prefix="ssmlens-chunks")
        self._jobs = ThreadPoolExecutor(self._at_once, thread_name_prefix="ssmlens-shards")
        self._running: dict[Hashable, Future[None]] = {}

    def start(self, name: Hashable, job: Callable[[], None]) -> None:
        """Begin a job, after waiting for another to end if there are too many. Raises what went wrong in one."""
        if len(self._running) == self._at_once:
            wait(self._running.values(), return_when=FIRST_COMPLETED)
        for ended in [name for name, future in self._running.items() if future.done()]:
            self.join(ended)
        self._running[name] = self._jobs.submit(job)

    def join(self, name: Hashable) -> None:
        """Wait for a job, if there is one of that name. Raises what went wrong in it."""
        if name in self._running:
            self._running.pop(name).result()

    def join_all(self) -> None:
        """Wait for all jobs. Raises what went wrong in the first that failed."""
        wait(self._running.values())
        for name in list(self._running):
            self.join(name)

    def close(self) -> None:
        """Wait for all jobs, whatever becomes of them, and let the threads go."""
        self._jobs.shutdown()
        self.threads.shutdown()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
