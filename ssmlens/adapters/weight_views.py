"""Named views of a mixer's weights: scores read them, inits write them."""

import dataclasses

from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class WeightViews:
    """Views into a mixer's parameters, with the axes of `ssmlens.names`. None: the family has no such weight.

    Attributes:
        A_log: log(−A); one column in Mamba-2.
        dt_bias: Added to dt before softplus; one value per state component where each has its own decay.
        W_dt: Rows that compute dt from `input`: one per head (Mamba-2), or dt_rank rows (Mamba-1), which `dt_proj`
            expands to heads. None if each group has its own rows for its own channels (Zamba).
        W_B: Rows that compute B. `input` is d_inner after the convolution in Mamba-1, d_model before it in Mamba-2.
        W_C: Rows that compute C. In a delta rule k is B and q is C.
        W_beta: Rows that compute β, the strength of a delta rule's write.
        conv: Taps of the convolution; tap K−1 is the current token's.
        D: Skip weights.
        dt_proj: Expands dt_rank values to heads; None in Mamba-2.
        conv_bias: Bias of the convolution.
        conv_B: Taps of B's convolution; None if B is computed after the convolution (Mamba-1).
        conv_C: Taps of C's convolution.
        conv_x: Taps of x's convolution, if x, B and C have separate convolutions.
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
        """The views that are not None, by name."""
        views = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: view for name, view in views.items() if view is not None}
