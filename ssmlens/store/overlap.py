"""Write shards in the background while the caller computes the next layer."""

from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait


class Overlap:
    """Runs a few jobs at a time in threads. `start` blocks while the limit is reached, which bounds memory.

    Threads suffice: nearly all the work (digests, chunks, the disk) releases the interpreter lock. They share the
    caller's arrays and end with the process.

    Args:
        at_once: Number of jobs at a time. With two, one is encoded while the other waits for the disk.

    Attributes:
        threads: A pool for the digests of the jobs, one thread a job.
    """

    def __init__(self, at_once: int = 2):
        self._at_once = at_once
        self.threads = ThreadPoolExecutor(at_once, thread_name_prefix="ssmlens-digests")
        self._jobs = ThreadPoolExecutor(at_once, thread_name_prefix="ssmlens-shards")
        self._running: dict[Hashable, Future[None]] = {}

    def start(self, name: Hashable, job: Callable[[], None]) -> None:
        """Start a job; wait first for one to end if there are too many. Raises the error of a job that ended."""
        if len(self._running) == self._at_once:
            wait(self._running.values(), return_when=FIRST_COMPLETED)
        for ended in [name for name, future in self._running.items() if future.done()]:
            self.join(ended)
        self._running[name] = self._jobs.submit(job)

    def join(self, name: Hashable) -> None:
        """Wait for the job of that name, if there is one. Raises its error."""
        if name in self._running:
            self._running.pop(name).result()

    def join_all(self) -> None:
        """Wait for all jobs. Raises the error of the first that failed."""
        wait(self._running.values())
        for name in list(self._running):
            self.join(name)

    def close(self) -> None:
        """Wait for all jobs, failed or not, and end the threads."""
        self._jobs.shutdown()
        self.threads.shutdown()
