"""flash-linear-attention's Kimi Delta Attention (Kimi Team 2025, arXiv 2510.26692): one decay per state component."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import DecayWeights
from ssmlens.adapters.fla_delta_shared import FlaDeltaAdapter
from ssmlens.scan.operator import scan_dtype


@register
class FlaKimiDeltaAttention(FlaDeltaAdapter):
    """`fla.layers.kda.KimiDeltaAttention`."""

    family = "fla KimiDeltaAttention"
    mixers = ("fla.layers.kda.KimiDeltaAttention",)
    model_type = "kda"
    model, config = "KDAForCausalLM", "KDAConfig"
    tiny: ClassVar = {"head_dim": 5, "expand_v": 1.4, "num_heads": 2, "num_v_heads": 4}

    def log_decay(
        self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token head state"]:
        """See `FlaDeltaAdapter.log_decay`.

        −exp(A_log) softplus(f_proj(u) + dt_bias), or lower_bound · sigmoid(exp(A_log) (f_proj(u) + dt_bias)).
        """
        step = mixer.f_proj(hidden)
        wide = scan_dtype(step)
        step = (step.to(wide) + mixer.dt_bias.to(wide)).unflatten(2, (-1, mixer.head_k_dim))
        rate = mixer.A_log.to(wide).exp().unsqueeze(1)
        if mixer.lower_bound is not None:
            return mixer.lower_bound * torch.sigmoid(rate * step)
        return -rate * F.softplus(step)

    def decay_weights(self, mixer: Any) -> DecayWeights:
        """See `FlaDeltaAdapter.decay_weights`."""
        return DecayWeights(mixer.A_log, mixer.dt_bias, mixer.f_proj[1].weight, mixer.lower_bound)
