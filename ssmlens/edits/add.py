"""Add a vector (steering)."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from ssmlens.edits.edit import register
from ssmlens.edits.value import Place, ValueEdit
from ssmlens.errors import UsageError
from ssmlens.models.parameters import Number


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Add(ValueEdit):
    """Add a vector to `what`: `Add(layer=3, vector=direction)` steers the mixer's output at every token.

    Attributes:
        vector: The vector: a number, or a tensor that broadcasts over `what`, such as [d_model].
    """

    vector: Number | Tensor
    what: str = "output"
    kind: ClassVar[str] = "add"

    def check(self) -> None:
        """See `Edit.check`."""
        self.check_number(self.vector, "vector")

    def new(self, old: Tensor, place: Place) -> Tensor:
        """See `ValueEdit.new`."""
        if not isinstance(self.vector, Tensor):
            return old + self.vector
        try:
            new = old + self.vector.to(old.device)
        except RuntimeError:
            new = None
        if new is None or new.shape != old.shape:
            raise UsageError(
                f"{self}: a vector of shape {list(self.vector.shape)} does not broadcast over {place.what}, "
                f"[{' '.join(place.axes)}] = {list(old.shape)}"
            )
        return new
