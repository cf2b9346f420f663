"""Scale something: Δ, a head's decay, a state, what the mixer puts out."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from ssmlens.edits.edit import register
from ssmlens.edits.value import Place, ValueEdit
from ssmlens.models.parameters import Number


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(ValueEdit):
    """Multiply `what` by a factor: `Scale(layer=3, what="delta", factor=0.5, tokens="8:16")`.

    What is derived from it is derived again: in Mamba-3, Δ drives the decay, both weights of a write and the rotation.
    Scaling a log decay leaves the writes as they are, scaling Δ does not.

    Attributes:
        factor: What it is multiplied by: a number, or a tensor that broadcasts over it.
    """

    factor: Number | Tensor
    kind: ClassVar[str] = "scale"

    def check(self) -> None:
        """See `Edit.check`."""
        self.check_number(self.factor, "factor")

    def new(self, old: Tensor, place: Place) -> Tensor:
        """See `ValueEdit.new`."""
        factor = self.factor.to(old.device) if isinstance(self.factor, Tensor) else self.factor
        return old * factor
