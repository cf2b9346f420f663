"""The normalised decay scan: a decay scan whose C divides by what the weights of a token sum to (RWKV-4)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operator import register
from ssmlens.scan.operators.decay_scan import DecayScan


@register
@dataclass(frozen=True, repr=False)
class NormalisedScan(DecayScan):
    """A decay scan whose rows of M sum to 1; a token reads the state before its own write, and that write beside it.

    The sum is part of C: an edit of anything else leaves it as it was.
    """

    kind: ClassVar[str] = "normalised decay scan"

    def read_state(
        self, state: Float[Tensor, "batch head headdim state"], since: int
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.read_state`: token `since` reads before it writes, so that it reads nothing of this state."""
        read = super().read_state(state, since)
        if since >= 0:
            read[:, since] = 0
        return read
