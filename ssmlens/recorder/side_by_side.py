"""The same work for several layers at a time, each on cores of its own.

A layer's maps are many small steps. Cores that share one step wait for each other after it, long where the machine
has other work, too; cores that each have a layer do not.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from ssmlens.scan.cores import threads

Result = TypeVar("Result")

# Layers at a time, at most: as many as are in memory while one is computed and two are written.
_MOST = 3


class SideBySide:
    """Runs works for a device: on a CPU several at a time, on a GPU one after the other, where they are asked for.

    Every work has the same number of torch's threads, however many there are, so that its rounding does not depend on
    the others.

    Args:
        device: Where the works compute.

    Attributes:
        count: How many at a time.
    """

    def __init__(self, device: torch.device):
        self._all = torch.get_num_threads()
        self.count = min(_MOST, self._all) if device.type == "cpu" else 1

    def run(self, works: Sequence[Callable[[], Result]]) -> Iterator[Result]:
        """What the works return, in their order. Raises what one of them raises, after those before it."""
        if self.count == 1:
            yield from (work() for work in works)
            return
        inference = torch.is_inference_mode_enabled()

        def as_here(work: Callable[[], Result]) -> Result:
            with torch.inference_mode(inference):
                return work()

        pool = threads(self.count, self._all // self.count).pool
        futures = deque(pool.submit(as_here, work) for work in works)
        while futures:
            yield futures.popleft().result()  # which is then nobody's but the caller's
