"""Take something from another run: path patching."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from ssmlens.edits.edit import register
from ssmlens.edits.source import Source, check_source, laid_over, value_from
from ssmlens.edits.value import Place, ValueEdit
from ssmlens.errors import UsageError


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Swap(ValueEdit):
    """Take `what` from another recording: `Swap(layer=3, what="delta", source=rec[3])` patches Δ alone.

    Token p of the other prompt goes to token p, counted from each prompt's first real token; tokens that the other
    prompt lacks keep their own. Operands are those of `Operator.quantity`: in Mamba-3, B and C before their rotation.

    Attributes:
        source: A record, a `Recording` (its record of this layer), or a tensor with the axes of `what`. On the command
            line: the other prompt.
    """

    source: Source
    kind: ClassVar[str] = "swap"

    def check(self) -> None:
        """See `Edit.check`."""
        check_source(self.source, self)

    def new(self, old: Tensor, place: Place) -> Tensor:
        """See `ValueEdit.new`."""
        try:
            return laid_over(*value_from(self.source, self, place), old, place)
        except UsageError as error:
            raise UsageError(f"{self}: {error}") from None
