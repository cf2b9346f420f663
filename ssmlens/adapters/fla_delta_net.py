"""flash-linear-attention's DeltaNet (Yang et al. 2024, arXiv 2406.06484), without decay."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssmlens.adapters.adapter import register
from ssmlens.adapters.fla_delta_shared import FlaDeltaAdapter
from ssmlens.models.projections import Activation
from ssmlens.models.projections_delta import unit_length
from ssmlens.scan.operator import scan_dtype

_ACTIVATIONS = {"relu": F.relu, "elu": lambda x: F.elu(x) + 1}


@register
class FlaDeltaNet(FlaDeltaAdapter):
    """`fla.layers.delta_net.DeltaNet`."""

    family = "fla DeltaNet"
    mixers = ("fla.layers.delta_net.DeltaNet",)
    model_type = "delta_net"
    model, config = "DeltaNetForCausalLM", "DeltaNetConfig"
    tiny: ClassVar = {"num_heads": 3, "expand_k": 0.625, "expand_v": 0.875}

    def key_activation(self, mixer: Any) -> Activation | None:
        """See `FlaDeltaAdapter.key_activation`."""
        return F.silu if mixer.qk_activation == "silu" else None

    def normalise(
        self, mixer: Any, x: Float[Tensor, "batch token group state"]
    ) -> Float[Tensor, "batch token group state"]:
        """See `FlaDeltaAdapter.normalise`: an activation other than SiLU, then scaling to length 1 or sum 1."""
        x = _ACTIVATIONS.get(mixer.qk_activation, lambda x: x)(x)
        return unit_length(x) if mixer.qk_norm == "l2" else F.normalize(x, p=1, dim=3, eps=1e-6)

    def strength(
        self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token head"]:
        """See `FlaDeltaAdapter.strength`: computed before the kernel, in the input's dtype."""
        if not mixer.use_beta:
            return hidden.new_full((*hidden.shape[:2], mixer.num_heads), self.beta_scale(mixer))
        return mixer.b_proj(hidden).sigmoid() * self.beta_scale(mixer)

    def log_decay(
        self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token head 1"]:
        """See `FlaDeltaAdapter.log_decay`: 0."""
        shape = (*hidden.shape[:2], mixer.num_heads, 1)
        return torch.zeros(shape, dtype=scan_dtype(hidden), device=hidden.device)

    def settings(self, mixer: Any) -> dict[str, Any]:
        """See `Adapter.settings`."""
        return super().settings(mixer) | {"keys": f"{mixer.qk_activation}, {mixer.qk_norm}"}
