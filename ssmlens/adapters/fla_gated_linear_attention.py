"""flash-linear-attention's gated linear attention (Yang et al. 2024, arXiv 2312.06635): a vector decay scan.

q and k are C and B; log α = max(logsigmoid(gk_proj(u)) / gate_logit_normalizer, clamp_min). If several query
heads share a key head, each has its own copy of k, v and α.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlens import names
from ssmlens.adapters.adapter import MixerInput, register
from ssmlens.adapters.fla_shared import FlaAdapter, branch, convolution_views, zeroed_input
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.parameters import Number
from ssmlens.models.projections import Activation, zero_padding
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.vector_decay_scan import VectorDecayScan


@register
class FlaGatedLinearAttention(FlaAdapter):
    """`fla.layers.gla.GatedLinearAttention`."""

    family = "fla GatedLinearAttention"
    mixers = ("fla.layers.gla.GatedLinearAttention",)
    block_kind = names.LINEAR_ATTENTION
    model_type = "gla"
    model, config = "GLAForCausalLM", "GLAConfig"
    tiny: ClassVar = {"num_heads": 3, "expand_k": 0.625, "expand_v": 0.875}

    def project(self, mixer: Any, given: MixerInput) -> VectorDecayScan:
        """See `Adapter.project`."""
        hidden, mask = zeroed_input(given), given.token_mask
        q, k, v = (branch(mixer, name, hidden, mask) for name in "qkv")
        copies, heads = mixer.num_kv_groups, mixer.num_heads
        k, v = (x.repeat(mixer.num_kv_heads, copies) for x in (k, v))
        C, B = (x.values for x in (q, k))
        if (feature_map := mixer.feature_map_fn) is not None:
            C, B = (feature_map(x.to(q.before.dtype)).to(x.dtype) for x in (C, B))
        C, B = (zero_padding(x, mask).unflatten(2, (heads, -1)) for x in (C, B))
        log_decay = F.logsigmoid(mixer.gk_proj(hidden)) / mixer.gate_logit_normalizer
        if mixer.clamp_min is not None:
            log_decay = log_decay.clamp_min(mixer.clamp_min)
        log_decay = log_decay.unflatten(2, (mixer.num_kv_heads, -1))
        return VectorDecayScan(
            B=B,
            C=C * mixer.head_k_dim**-0.5,
            log_decay=log_decay.repeat_interleave(copies, dim=2).to(scan_dtype(log_decay)),
            x=v.values.unflatten(2, (heads, -1)),
            gate=mixer.g_proj(hidden) if mixer.use_output_gate else None,
            surroundings=self.around(mixer, v, heads),
        )

    def gate_activation(self, mixer: Any) -> Activation:
        """See `FlaAdapter.gate_activation`."""
        return super().gate_activation(mixer) if mixer.fuse_norm_and_gate else mixer.gate_fn

    def norm_name(self, mixer: Any) -> str:
        """See `FlaAdapter.norm_name`."""
        return "g_norm_swish_gate" if mixer.fuse_norm_and_gate else "g_norm"

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. Empty if query heads share a key head."""
        if mixer.num_kv_groups > 1:
            return WeightViews()
        per_head = (mixer.num_heads, mixer.head_k_dim)
        W_q, W_k = (getattr(mixer, f"{name}_proj").weight.unflatten(0, per_head) for name in "qk")
        return WeightViews(W_B=W_k, W_C=W_q, **convolution_views(mixer, per_head))

    def settings(self, mixer: Any) -> dict[str, Any]:
        """See `Adapter.settings`."""
        feature_map = getattr(mixer.feature_map_fn, "__name__", None)
        return {
            "decay_bound": mixer.clamp_min,
            "gate_logit_normalizer": mixer.gate_logit_normalizer,
            "feature_map": feature_map,
        }

    def slow_decay(
        self, mixer: Any, c: Number, w_delta_scale: Number
    ) -> dict[str, list[tuple[Tensor, Tensor]]] | None:
        """See `Adapter.slow_decay`. With w_delta_scale = 0 every log decay is −exp(−c), whatever the token.

        gk_proj's bias := −log(exp(gate_logit_normalizer · exp(−c)) − 1); there is no A_log.
        """
        if mixer.num_kv_groups > 1:
            return None
        last = mixer.gk_proj[1]
        bias = -math.log(math.expm1(mixer.gate_logit_normalizer * math.exp(-c)))
        return {
            "A": [],
            "delta": [
                (last.bias, torch.full_like(last.bias, bias)),
                (last.weight, w_delta_scale * last.weight),
            ],
        }
