"""Named views of a mixer's weights: what scores read and initialisations write."""

import dataclasses

from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class WeightViews:
    """Views into a mixer's parameters, with the axes of `ssmlens.names`. None: the family has no such weight.

    Attributes:
        A_log: log(−A); one column in Mamba-2.
        dt_bias: What is added to dt before softplus; a value a state where each state has a decay of its own.
        W_dt: Rows that make dt from `input`: a row a head (Mamba-2), or the rank's rows (Mamba-1), which `dt_proj`
            then spreads over heads. None where groups have rows of their own for channels of their own (Zamba).
        W_B: Rows that make B. `input` is d_inner after the convolution in Mamba-1, d_model before it in Mamba-2.
        W_C: Rows that make C. In a delta rule k is B and q is C.
        W_beta: Rows that make β, the strength of a delta rule's write.
        conv: Taps of the convolution; tap K−1 is the current token's.
        D: Skip weights.
        dt_proj: From the rank's rows to heads; None in Mamba-2.
        conv_bias: Bias of the convolution.
        conv_B: The taps that B passes through; None where B is made after the convolution (Mamba-1).
        conv_C: The taps that C passes through.
        conv_x: The taps that x passes through, where it has a convolution of its own, beside those of B and C.
    """

    A_log: Float[Tensor, "head A_state"] | None = None
    dt_bias: Float[Tensor, "head *state"] | None = None
    W_dt: Float[Tensor, "dt_row input"] | None = None
    W_B: Float[Tensor, "group state input"] | None = None
    W_C: Float[Tensor, "group state input"] | None = None
    W_beta: Float[Tensor, "head input"] | None = None
    conv: Float[Tensor, "conv_channel tap"] | None = None
    D: Float[Tensor, "head #headdim"] | None = None
    dt_proj: Float[Tensor, "head dt_rank"] | None = None
    conv_bias: Float[Tensor, "conv_channel"] | None = None
    conv_B: Float[Tensor, "group state tap"] | None = None
    conv_C: Float[Tensor, "group state tap"] | None = None
    conv_x: Float[Tensor, "x_channel tap"] | None = None

    def named(self) -> dict[str, Tensor]:
        """The views there are, by name."""
        views = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: view for name, view in views.items() if view is not None}
