"""Common code of flash-linear-attention's delta rules: short convolutions of q, k and v, then the operands."""

import math
from abc import abstractmethod
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.delta_shared import DecayWeights
from ssmlens.adapters.fla_shared import FlaAdapter, branch, convolution_views, zeroed_input
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.parameters import Number
from ssmlens.models.projections import Activation, zero_padding
from ssmlens.models.projections_delta import unit_length
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.delta_rule import DeltaRule


class FlaDeltaAdapter(FlaAdapter):
    """Layers that write with a delta rule. Every key head serves the same number of value heads, in order."""

    block_kind = names.DELTA_RULE
    fresh_A_log = (-math.inf, math.log(16))

    def project(self, mixer: Any, given: MixerInput) -> DeltaRule:
        """See `Adapter.project`."""
        hidden, mask = zeroed_input(given), given.token_mask
        of_keys = self.key_activation(mixer)
        q, k = (branch(mixer, name, hidden, mask, of_keys) for name in "qk")
        v = branch(mixer, "v", hidden, mask, F.silu)
        wide, per_head = scan_dtype(hidden), (-1, mixer.head_k_dim)
        queries, keys = (self.normalise(mixer, x.values.unflatten(2, per_head)) for x in (q, k))
        if mask is not None:  # ELU + 1 turns the zeros of padding into ones
            queries, keys = (x * mask.to(x)[:, :, None, None] for x in (queries, keys))
        x = v.values.unflatten(2, (-1, mixer.head_v_dim))
        return DeltaRule(
            q=queries * mixer.head_k_dim**-0.5,
            k=keys,
            beta=zero_padding(self.strength(mixer, hidden).to(wide), mask),
            log_decay=self.log_decay(mixer, hidden),
            x=x,
            gate=self.gate(mixer, hidden),
            surroundings=self.around(mixer, v, x.shape[2]),
        )

    def key_activation(self, mixer: Any) -> Activation | None:
        """The activation after the projections of q and k if there is no convolution."""
        return F.silu

    def normalise(
        self, mixer: Any, x: Float[Tensor, "batch token group state"]
    ) -> Float[Tensor, "batch token group state"]:
        """Normalise queries or keys as the rule takes them, without the scale of queries."""
        return unit_length(x)

    def strength(
        self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token head"]:
        """β, as the kernel computes it."""
        beta = mixer.b_proj(hidden)
        return beta.to(scan_dtype(beta)).sigmoid() * self.beta_scale(mixer)

    @abstractmethod
    def log_decay(
        self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token head #state"]:
        """log α."""

    def gate(
        self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token d_inner"] | None:
        """The gate before its activation; None if there is no gate."""
        return mixer.g_proj(hidden) if hasattr(mixer, "g_proj") else None

    def beta_scale(self, mixer: Any) -> float:
        """The factor of the sigmoid in β: 2 if eigenvalues may be negative, else 1."""
        return 2.0 if mixer.allow_neg_eigval else 1.0

    def decay_weights(self, mixer: Any) -> DecayWeights | None:
        """The weights of the decay; None if nothing decays."""
        return None

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. q, k and v have separate convolutions, so `conv` is None."""
        W_q, W_k = (
            getattr(mixer, f"{name}_proj").weight.unflatten(0, (-1, mixer.head_k_dim))
            for name in "qk"
        )
        views: dict[str, Any] = {}
        if hasattr(mixer, "b_proj"):
            views["W_beta"] = mixer.b_proj.weight
        if (decay := self.decay_weights(mixer)) is not None:
            heads = len(decay.A_log)
            views["A_log"] = decay.A_log.unsqueeze(1)
            bias = decay.dt_bias
            views["dt_bias"] = bias if len(bias) == heads else bias.view(heads, -1)
            views["W_dt"] = decay.rows if len(decay.rows) == heads else None
        views |= convolution_views(mixer, W_k.shape[:2])
        return WeightViews(W_B=W_k, W_C=W_q, **views)

    def settings(self, mixer: Any) -> dict[str, Any]:
        """See `Adapter.settings`."""
        decay = self.decay_weights(mixer)
        return {
            "beta_scale": self.beta_scale(mixer),
            "decay_bound": None if decay is None else decay.bound,
        }

    def slow_decay(
        self, mixer: nn.Module, c: Number, w_delta_scale: Number
    ) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """See `Adapter.slow_decay`. Sets nothing if nothing decays."""
        decay = self.decay_weights(mixer)
        return {"A": [], "delta": []} if decay is None else decay.slow(c, w_delta_scale)
