"""One computation in parts, each on a core of its own.

For what is a long row of small steps: cores that share every step spend their time waiting for each other.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from threading import Barrier

import torch


class Threads:
    """Threads in each of which torch computes with a number of threads of its own.

    Args:
        count: How many.
        each: torch's threads in each of them. Those of the caller stay as they are.
    """

    def __init__(self, count: int, each: int):
        here, all_begun = torch.get_num_threads(), Barrier(count)

        def begin() -> None:
            torch.get_num_threads()  # which sets a new thread's number for the first time
            torch.set_num_threads(each)
            all_begun.wait()

        self.pool = ThreadPoolExecutor(count, thread_name_prefix="cores")
        for begun in [self.pool.submit(begin) for _ in range(count)]:
            begun.result()
        torch.set_num_threads(here)  # a thread's own, but new threads begin with the last one set


def parts(size: int, least: int) -> list[slice]:
    """Ranges that share `size` evenly over torch's threads; none smaller than `least`, where there are several."""
    count = max(1, min(torch.get_num_threads(), size // least))
    edges = [size * n // count for n in range(count + 1)]
    return [slice(first, end) for first, end in pairwise(edges)]


def run_parts(work: Callable[[slice], None], some: Sequence[slice]) -> None:
    """Do the work for every part, without gradients: side by side where torch has as many threads, shared evenly.

    The first part is the caller's own: memory that a thread has freed, others cannot take.
    """
    here = torch.get_num_threads()
    each = here // max(1, len(some))
    if len(some) == 1 or not each:
        for part in some:
            work(part)
        return
    inference = torch.is_inference_mode_enabled()

    def apart(part: slice) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    pool = threads(len(some) - 1, each).pool
    others = [pool.submit(apart, part) for part in some[1:]]
    torch.set_num_threads(each)
    try:
        with torch.no_grad():
            work(some[0])
    finally:
        torch.set_num_threads(here)
        wait(others)
    for other in others:
        other.result()


_known: dict[tuple[int, int], Threads] = {}
if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_known.clear)


def threads(count: int, each: int) -> Threads:
    """Threads that are made once; what runs in them may ask only for others, with fewer of torch's each."""
    if (count, each) not in _known:
        _known[count, each] = Threads(count, each)
    return _known[count, each]
