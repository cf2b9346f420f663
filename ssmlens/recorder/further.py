"""Further arrays of every layer, which other code computes and a capture stores."""

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
        """Compute one layer's arrays for these prompts of the capture, and attributes of the layer.

        This may run the model.
        """
        ...


Further = Callable[[nn.Module, Prompts], FurtherArrays]
"""Creates `FurtherArrays` from the model and all prompts of the capture."""
