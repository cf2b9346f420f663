"""Ablate a layer, an MLP, a block, heads, channels or tokens: what is left without them?"""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from ssmlens.edits.edit import register
from ssmlens.edits.source import Source, check_source, laid_over, value_from
from ssmlens.edits.value import Place, ValueEdit
from ssmlens.errors import UsageError
from ssmlens.names import PROMPT, TOKEN

ZERO, MEAN, RESAMPLE = "zero", "mean", "resample"


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablate(ValueEdit):
    """Replace what something puts out: `Ablate(layer=3)` is a layer without its mixer.

    Without `what` it is the output of the layer's mixer (or attention; never of its MLP); with `heads` or `channels`,
    theirs: y = M x + D x before gate and norm. A norm that spans heads runs live: it rescales those that are left, as
    in a real run. A block that is ablated to zero puts out the residual stream that it got.

    Attributes:
        what: "output", "scan_output", "mlp" or "block". Empty: see above.
        how: "zero"; "mean", over all real tokens of the prompts of the call, or of `source`; or "resample": token by
            token from `source`, or from the next prompt of the batch.
        source: A recording or a tensor to take means or values from.
    """

    what: str = ""
    how: str = ZERO
    source: Source = None
    kind: ClassVar[str] = "ablate"

    def __post_init__(self):
        if not self.what:
            inside = self.heads is not None or self.channels is not None
            object.__setattr__(self, "what", "scan_output" if inside else "output")
        super().__post_init__()
        if self.what not in ("output", "scan_output", "mlp", "block"):
            raise UsageError(
                f"{self}: ablate output, scan_output, mlp or block; to change {self.what}, set it"
            )
        if self.how not in (ZERO, MEAN, RESAMPLE):
            raise UsageError(f"{self}: ablate with how={ZERO}, {MEAN} or {RESAMPLE}")
        if self.how == ZERO and self.source is not None:
            raise UsageError(f"{self}: a source needs how={MEAN} or {RESAMPLE}")

    def check(self) -> None:
        """See `Edit.check`."""
        if self.source is not None:
            check_source(self.source, self)

    def new(self, old: Tensor, place: Place) -> Tensor:
        """See `ValueEdit.new`."""
        if self.how == ZERO:
            return torch.zeros_like(old)
        if self.how == MEAN:
            return self._mean(old, place)
        if self.source is not None:
            return laid_over(*value_from(self.source, self, place), old, place)
        if len(old) < 2:
            raise UsageError(f"{self}: a batch of one has no other prompt to take values from")
        return laid_over(old.roll(-1, 0), _rolled(place), old, place)

    def _mean(self, old: Tensor, place: Place) -> Tensor:
        value, positions = old, place.positions
        if self.source is not None:
            value, positions = value_from(self.source, self, place)
            value = value.to(old.device, old.dtype)
            if TOKEN not in place.axes or value.ndim < old.ndim:
                return value.expand_as(old)
        assert place.axes[:2] == (PROMPT, TOKEN)
        real = value if positions is None else value[positions.real.to(value.device)]
        real = real.flatten(0, 1) if positions is None else real
        wide = torch.promote_types(value.dtype, torch.float32)
        return real.to(wide).mean(0).to(old.dtype).expand_as(old)


def _rolled(place: Place):
    positions = place.positions
    fields = {name: getattr(positions, name).roll(-1, 0) for name in ("first", "length", "prefill")}
    return dataclasses.replace(positions, **fields)
