"""The interface of a layer that verdicts, scores and figures need: a stored layer, a record or a test's own."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class LayerLike(Protocol):
    """A layer of a capture, or an object that can replace one."""

    @property
    def index(self) -> int:
        """Block index in the model."""
        ...

    @property
    def state(self) -> str:
        """`names.FINITE`, or the part that is not finite."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The scalars and strings stored about the layer."""
        ...

    def __contains__(self, name: str, /) -> bool:
        """Whether the layer has this array."""
        ...

    def read(self, name: str, prompt: int | None = None) -> np.ndarray:
        """An array of `store.schema.LAYER_ARRAYS`; with a prompt, that prompt's, cut to its length."""
        ...
