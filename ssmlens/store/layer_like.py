"""What verdicts, scores and figures ask of a layer, so that each works on any: a stored one, a record, a test's own."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class LayerLike(Protocol):
    """A layer of a capture, or what stands for one."""

    @property
    def index(self) -> int:
        """Block index in the model."""
        ...

    @property
    def state(self) -> str:
        """`names.FINITE`, or what is not finite."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Whatever is stored about the layer in one value."""
        ...

    def __contains__(self, name: str, /) -> bool:
        """Whether the layer has this array."""
        ...

    def read(self, name: str, prompt: int | None = None) -> np.ndarray:
        """An array of `store.schema.LAYER_ARRAYS`; with a prompt, that prompt's, cut to its length."""
        ...
