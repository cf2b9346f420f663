"""The normalised decay scan: a decay scan whose C divides each row of M by its sum (RWKV-4)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operator import register
from ssmlens.scan.operators.decay_scan import DecayScan


@register
@dataclass(frozen=True, repr=False)
class NormalisedScan(DecayScan):
    """A decay scan whose rows of M sum to 1. A token reads the state before its own write, and that write separately.

    The sum is part of C, so edits of other operands do not change it.
    """

    kind: ClassVar[str] = "normalised decay scan"

    def read_state(
        self, state: Float[Tensor, "batch head headdim state"], since: int
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.read_state`. Token `since` reads before it writes, so it reads nothing of this state."""
        read = super().read_state(state, since)
        if since >= 0:
            read[:, since] = 0
        return read
