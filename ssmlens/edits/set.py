"""Set a value: to 0, a constant or a tensor."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from ssmlens.edits.edit import register
from ssmlens.edits.value import Place, ValueEdit
from ssmlens.errors import UsageError
from ssmlens.models.parameters import Number


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Set(ValueEdit):
    """Set `what` to a value: `Set(layer=3, what="state", tokens=40, value=0)` resets the state after token 40.

    The recurrence continues from the new state, so every later token reads what is left of the change.

    Attributes:
        value: A number, or a tensor that broadcasts over `what`.
    """

    value: Number | Tensor
    kind: ClassVar[str] = "set"

    def check(self) -> None:
        """See `Edit.check`."""
        self.check_number(self.value, "value")

    def new(self, old: Tensor, place: Place) -> Tensor:
        """See `ValueEdit.new`."""
        value = self.value
        value = value.to(old) if isinstance(value, Tensor) else old.new_full((), value)
        try:
            return value.expand_as(old)
        except RuntimeError:
            raise UsageError(
                f"{self}: a value of shape {list(value.shape)} does not broadcast over {place.what}, "
                f"[{' '.join(place.axes)}] = {list(old.shape)}"
            ) from None
