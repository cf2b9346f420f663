"""transformers' MiniMax: lightning attention with a constant decay per head, some blocks softmax attention.

q, k and v are SiLU of one projection, with a group per head, and 0 at padding. M[i,j] = exp(−s (i − j)) q_i · k_j,
where s is the head's slope (Qin et al. 2024, arXiv 2401.04658): a decay scan with Δ = 1 and A = −s. Norm, σ(gate) and
out_proj follow.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.adapter import MixerInput, register
from ssmlens.adapters.transformers_shared import TransformersAdapter
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.projections import rms_norm, zero_padding
from ssmlens.models.submodules import called
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.surroundings import Surroundings


@register
class TransformersMiniMax(TransformersAdapter):
    """`transformers.models.minimax.MiniMaxLightningAttention`."""

    family = "transformers MiniMaxLightningAttention"
    mixers = ("transformers.models.minimax.modeling_minimax.MiniMaxLightningAttention",)
    block_kind = names.LINEAR_ATTENTION
    cache_argument = "past_key_values"

    def cached_by(self, mixer: Any, given: Mapping[str, Any]) -> str | None:
        """See `Adapter.cached_by`. Its model has its own cache class, with one state per layer."""
        cache = given.get("past_key_values")
        state = None if cache is None else cache.get_linear_cache(mixer.layer_idx)
        return None if state is None else "past_key_values"

    def project(self, mixer: Any, given: MixerInput) -> DecayScan:
        """See `Adapter.project`."""
        qkv = zero_padding(mixer.act_fn(mixer.qkv_proj(given.hidden)), given.token_mask)
        wide = scan_dtype(qkv)
        q, k, v = (
            qkv.to(wide).unflatten(2, (mixer.num_attention_heads, 3, mixer.head_dim)).unbind(3)
        )
        return DecayScan(
            delta=torch.ones_like(q[..., 0]),
            A=-mixer.slope_rate.view(-1, 1).to(wide),
            B=k,
            C=q,
            x=v,
            gate=mixer.output_gate(given.hidden),
            surroundings=Surroundings(
                norm_weight=mixer.norm.weight,
                norm_eps=mixer.norm.variance_epsilon,
                norm_before_gate=True,
                gate_activation=torch.sigmoid,
            ),
        )

    def finish(
        self, mixer: Any, y: Float[Tensor, "batch token head headdim"], operands: Any
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`."""
        y = y.flatten(2).to(operands.gate.dtype)
        if (norm := called(mixer, norm="norm").get("norm")) is not None:
            normed = norm(y)
        else:
            normed = rms_norm(y, mixer.norm.weight, mixer.norm.variance_epsilon)
        return mixer.out_proj(torch.sigmoid(operands.gate) * normed)

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. The keys are B, the queries C; the decay is not a weight."""
        rows = mixer.qkv_proj.weight.unflatten(0, (mixer.num_attention_heads, 3, -1))
        W_q, W_k, _ = rows.unbind(1)
        return WeightViews(W_B=W_k, W_C=W_q)

    def settings(self, mixer: Any) -> dict[str, Any]:
        """See `Adapter.settings`. The slopes depend on the layer's number and on the number of layers."""
        return {"slope_rate": tuple(mixer.slope_rate.flatten().tolist())}

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Lightning, softmax, lightning."""
        from transformers import AutoModelForCausalLM, MiniMaxConfig

        config = MiniMaxConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=6,
            num_local_experts=2,
            num_experts_per_tok=1,
            block_size=16,
            pad_token_id=0,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
