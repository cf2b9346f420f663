"""The number of CPU threads of a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssmlens.errors import UsageError
from ssmlens.training.architecture import ModelOptions

_WIDE = 256
_SET = "OMP_NUM_THREADS"


def usual_threads(config: ModelOptions) -> int | None:
    """Return the default number of threads; None: torch's own default.

    One for a model narrower than 256: its products finish before a second thread starts, and on a busy machine threads
    wait for each other. OMP_NUM_THREADS takes precedence: torch reads it itself.
    """
    return 1 if config.d_model < _WIDE and _SET not in os.environ else None


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Set torch's number of threads in the `with` block; None keeps it.

    Raises:
        UsageError: The count is below 1.
    """
    if count is not None and count < 1:
        raise UsageError(f"`threads` is at least 1, not {count}")
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
