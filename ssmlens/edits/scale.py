"""Scale a value: Δ, a head's decay, a state, the mixer's output."""

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

    Values derived from `what` are derived again: in Mamba-3, Δ sets the decay, both weights of a write and the
    rotation. Scaling a log decay does not change the writes; scaling Δ does.

    Attributes:
        factor: A number, or a tensor that broadcasts over `what`.
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
