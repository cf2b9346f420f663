"""Ablate a layer, an MLP, a block, heads, channels or tokens."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from ssmlens.edits.edit import register
from ssmlens.edits.source import Source, align, check_source, value_from
from ssmlens.edits.value import Place, ValueEdit
from ssmlens.errors import UsageError
from ssmlens.names import PROMPT, TOKEN

ZERO, MEAN, RESAMPLE = "zero", "mean", "resample"


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablate(ValueEdit):
    """Replace an output: `Ablate(layer=3)` sets the output of layer 3's mixer to zero.

    By default the output is that of the layer's mixer (or of its attention; never of its MLP). With `heads` or
    `channels` it is their part of y = M x + D x, before gate and norm. A norm that spans heads is computed again, so
    it rescales the heads that remain, as in a real run. A block ablated to zero returns the residual stream unchanged.

    Attributes:
        what: "output", "scan_output", "mlp" or "block". Empty: the default above.
        how: "zero". "mean": the mean over all real tokens of the call's prompts, or of `source`. "resample": the values
            of `source`, or of the next prompt in the batch, token by token.
        source: A recording or a tensor that provides the means or the values.
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
                f"{self}: ablate takes output, scan_output, mlp or block; use set for {self.what}"
            )
        if self.how not in (ZERO, MEAN, RESAMPLE):
            raise UsageError(f"{self}: how is {ZERO}, {MEAN} or {RESAMPLE}")
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
            return align(*value_from(self.source, self, place), old, place)
        if len(old) < 2:
            raise UsageError(f"{self}: a batch of one has no other prompt to take values from")
        return align(old.roll(-1, 0), _rolled(place), old, place)

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
