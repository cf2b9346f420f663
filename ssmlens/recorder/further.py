"""What a capture stores beside what it records: arrays of every layer that somebody else computes."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from torch import nn

from ssmlens.recorder.prompts import Prompts


@runtime_checkable
class FurtherArrays(Protocol):
    """Computes further arrays of every layer, for some prompts at a time."""

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays' names, of `names.ARRAYS`."""
        ...

    def __call__(
        self, prompts: range, layer: int, /
    ) -> tuple[Mapping[str, np.ndarray], Mapping[str, str]]:
        """The arrays of one layer for these prompts of the capture, and attributes of the layer.

        It may run the model.
        """
        ...


Further = Callable[[nn.Module, Prompts], FurtherArrays]
"""What makes them, from the model and all prompts of the capture."""
