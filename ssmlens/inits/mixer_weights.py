"""The weights of one mixer that an init sets: the adapter's views and the biases of the same rows."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.adapters.find import MixerSite
from ssmlens.adapters.generations import Mamba1Adapter, Mamba2Adapter
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.errors import UsageError
from ssmlens.models.parameters import Number

SlowDecay = Callable[[Number, Number], Any]


@dataclasses.dataclass(frozen=True)
class MixerWeights:
    """Views into a mixer's parameters, by the operand that they produce.

    Attributes:
        views: As the adapter names them.
        own_A_log: A_log as the library drew it, float64: log n in Mamba-1, whatever is there now; in Mamba-2, where it
            is random, what is there now. None: it has none.
        dt_limit: What Δ is clamped to.
        bias_B: in_proj's bias of the rows that make B (Mamba-2 with `bias=True`), and so on.
        bias_C: See bias_B.
        bias_dt: See bias_B.
        conv_x: Taps that x passes, in Mamba-2 and where it has a convolution of its own.
        conv_bias_x: The convolution's bias of these channels, where it has one.
        conv_bias_B: The convolution's bias of B's channels, in Mamba-2, where it has one.
        conv_bias_C: See conv_bias_B.
        slow_decay: From c and w_delta_scale to the changes for the components "A" and "delta", if the family has its
            own rules (`Adapter.slow_decay`).
    """

    views: WeightViews
    own_A_log: Float[Tensor, "head A_state"] | None
    dt_limit: tuple[float, float] = (0.0, float("inf"))
    bias_B: Float[Tensor, "group state"] | None = None
    bias_C: Float[Tensor, "group state"] | None = None
    bias_dt: Float[Tensor, "head"] | None = None
    conv_x: Float[Tensor, "x_channel tap"] | None = None
    conv_bias_x: Float[Tensor, "x_channel"] | None = None
    conv_bias_B: Float[Tensor, "group state"] | None = None
    conv_bias_C: Float[Tensor, "group state"] | None = None
    slow_decay: SlowDecay | None = None

    @classmethod
    def from_site(cls, site: MixerSite) -> "MixerWeights":
        """Read the weights of a mixer. Raises UsageError for a family without rules for mimetic initialisation."""
        if site.adapter.slow_decay(site.module, 1, 1) is not None:
            views = site.adapter.weights(site.module)
            return cls(
                views,
                None if views.A_log is None else views.A_log.double(),
                conv_x=views.conv_x,
                slow_decay=lambda c, scale: site.adapter.slow_decay(site.module, c, scale),
            )
        if isinstance(site.adapter, Mamba1Adapter):
            views = site.adapter.weights(site.module)
            assert views.A_log is not None
            return cls(views, log_n(views.A_log))
        if not isinstance(site.adapter, Mamba2Adapter):
            raise UsageError(
                f"layer {site.layer} is {site.adapter.family}, which has not all that mimetic initialisation "
                "sets (A, Δ, W_B and W_C): it is for Mamba-1 and Mamba-2, delta rules and gated linear attention"
            )
        views, weights = site.adapter.weights(site.module), site.adapter.named_weights(site.module)
        assert views.A_log is not None
        assert views.W_B is not None
        groups, states = views.W_B.shape[:2]
        d_BC, heads = groups * states, len(weights.A_log)
        biases: dict[str, Any] = {}
        if weights.in_proj_bias is not None:
            B, C, dt = weights.in_proj_bias[-2 * d_BC - heads :].split([d_BC, d_BC, heads])
            biases = {"bias_B": B.view(groups, states), "bias_C": C.view(groups, states)}
            biases["bias_dt"] = dt
        if weights.conv_bias is not None:
            x, B, C = weights.conv_bias.split([weights.d_ssm, d_BC, d_BC])
            biases["conv_bias_x"] = x
            biases["conv_bias_B"] = B.view(groups, states)
            biases["conv_bias_C"] = C.view(groups, states)
        conv_x = weights.conv_weight[: weights.d_ssm]
        return cls(views, views.A_log.double(), weights.dt_limit, conv_x=conv_x, **biases)


def log_n(A_log: Float[Tensor, "head A_state"]) -> Float[Tensor, "head A_state"]:
    """Return log n for n = 1 .. states in each row, of A_log's shape, in float64."""
    n = torch.arange(1, A_log.shape[1] + 1, dtype=torch.float64, device=A_log.device)
    return n.log().expand_as(A_log)
