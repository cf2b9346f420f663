"""flash-linear-attention's gated DeltaNet (Yang et al. 2024, arXiv 2412.06464): one decay per head."""

from typing import Any, ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import DecayWeights
from ssmlens.adapters.fla_delta_shared import FlaDeltaAdapter
from ssmlens.scan.operator import scan_dtype


@register
class FlaGatedDeltaNet(FlaDeltaAdapter):
    """`fla.layers.gated_deltanet.GatedDeltaNet`."""

    family = "fla GatedDeltaNet"
    mixers = ("fla.layers.gated_deltanet.GatedDeltaNet",)
    model_type = "gated_deltanet"
    model, config = "GatedDeltaNetForCausalLM", "GatedDeltaNetConfig"
    tiny: ClassVar = {
        "head_dim": 5,
        "expand_v": 1.4,
        "num_heads": 2,
        "num_v_heads": 4,
        "allow_neg_eigval": True,
    }

    def log_decay(
        self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token head 1"]:
        """See `FlaDeltaAdapter.log_decay`: −exp(A_log) softplus(a_proj(u) + dt_bias)."""
        step = mixer.a_proj(hidden)
        wide = scan_dtype(step)
        step = F.softplus(step.to(wide) + mixer.dt_bias.to(wide))
        return -(mixer.A_log.to(wide).exp() * step).unsqueeze(3)

    def decay_weights(self, mixer: Any) -> DecayWeights:
        """See `FlaDeltaAdapter.decay_weights`."""
        return DecayWeights(mixer.A_log, mixer.dt_bias, mixer.a_proj.weight)
