"""Take a value from another run (path patching)."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from ssmlens.edits.edit import register
from ssmlens.edits.source import Source, align, check_source, value_from
from ssmlens.edits.value import Place, ValueEdit
from ssmlens.errors import UsageError


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Swap(ValueEdit):
    """Take `what` from another recording: `Swap(layer=3, what="delta", source=rec[3])` patches Δ alone.

    Token p gets the value of token p of the other prompt, both counted from the prompt's first real token. Tokens that
    the other prompt lacks keep their value. Operands are those of `Operator.quantity`: in Mamba-3, B and C before their
    rotation.

    Attributes:
        source: A layer's record, a `Recording` (the edit uses its record of this layer), or a tensor with the axes of
            `what`. On the command line: the other prompt.
    """

    source: Source
    kind: ClassVar[str] = "swap"

    def check(self) -> None:
        """See `Edit.check`."""
        check_source(self.source, self)

    def new(self, old: Tensor, place: Place) -> Tensor:
        """See `ValueEdit.new`."""
        try:
            return align(*value_from(self.source, self, place), old, place)
        except UsageError as error:
            raise UsageError(f"{self}: {error}") from None
