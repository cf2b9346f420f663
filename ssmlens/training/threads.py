"""How many CPU threads a run trains with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssmlens.errors import UsageError
from ssmlens.training.architecture import ModelOptions

_WIDE = 256
_SET = "OMP_NUM_THREADS"


def usual_threads(config: ModelOptions) -> int | None:
    """Threads to train with where nobody says; None: as many as torch takes by itself.

    One for a model narrower than 256: its products are done before a second thread has begun, and on a busy machine
    each waits for the other. OMP_NUM_THREADS wins: torch has taken it already.
    """
    return 1 if config.d_model < _WIDE and _SET not in os.environ else None


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads in the `with` block; None: with as many as it does.

    Raises:
        UsageError: There is none.
    """
    if count is not None and count < 1:
        raise UsageError(f"`threads` is at least 1, not {count}")
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
