"""transformers' Qwen3-Next: gated delta nets, every fourth block softmax attention."""

import dataclasses
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import (
    TINY,
    TINY_EXPERTS,
    DeltaAdapter,
    convolution,
    gated_norm,
)
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.projections_delta import DeltaInputs, DeltaWeights


@register
class TransformersQwen3Next(DeltaAdapter):
    """`transformers.models.qwen3_next.Qwen3NextGatedDeltaNet`."""

    family = "transformers Qwen3NextGatedDeltaNet"
    mixers = ("transformers.models.qwen3_next.modeling_qwen3_next.Qwen3NextGatedDeltaNet",)
    fresh_norms = (0.0, 1.0)

    def named_weights(self, mixer: Any) -> DeltaWeights:
        """See `DeltaAdapter.named_weights`. Rows are grouped by key head: q, k, values, gates; β, decay.

        Values, gates, β and decay are copies, because their rows are not contiguous.
        """
        groups, d_k = mixer.num_k_heads, mixer.head_k_dim
        values, heads = mixer.value_dim // groups, mixer.num_v_heads // groups
        qkvz = mixer.in_proj_qkvz.weight.unflatten(0, (groups, -1))
        beta_and_decay = mixer.in_proj_ba.weight.unflatten(0, (groups, -1))
        W_q, W_k, W_v, W_z = qkvz.split([d_k, d_k, values, values], dim=1)
        W_beta, W_decay = beta_and_decay.split([heads, heads], dim=1)
        return DeltaWeights(
            W_q=W_q,
            W_k=W_k,
            W_v=W_v.flatten(0, 1).unflatten(0, (mixer.num_v_heads, -1)),
            W_beta=W_beta.flatten(0, 1),
            W_decay=(W_decay.flatten(0, 1),),
            W_gate=(W_z.flatten(0, 1),),
            A_log=mixer.A_log,
            dt_bias=mixer.dt_bias,
            out_proj_weight=mixer.out_proj.weight,
            round_norm=True,
            **convolution(mixer),
            **gated_norm(mixer.norm),
            **self.calls(mixer, ("in_proj_qkvz", "in_proj_ba")),
        )

    def call_layers(self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]) -> DeltaInputs:
        """See `DeltaAdapter.call_layers`."""
        groups, d_k = mixer.num_k_heads, mixer.head_k_dim
        values, heads = mixer.value_dim // groups, mixer.num_v_heads // groups
        qkvz = mixer.in_proj_qkvz(hidden).unflatten(2, (groups, -1))
        beta_and_decay = mixer.in_proj_ba(hidden).unflatten(2, (groups, -1))
        q, k, v, gate = qkvz.split([d_k, d_k, values, values], dim=3)
        beta, decay = beta_and_decay.split([heads, heads], dim=3)
        return DeltaInputs(*(part.flatten(2) for part in (q, k, v, beta, decay, gate)))

    def weights(self, mixer: nn.Module) -> WeightViews:
        """See `Adapter.weights`. The rows of β and decay alternate by key head, so they have no view."""
        return dataclasses.replace(super().weights(mixer), W_dt=None, W_beta=None)

    def decay_rows(self, mixer: Any) -> Tensor:
        """See `DeltaAdapter.decay_rows`: the second half of each key head's rows."""
        per_key_head = mixer.in_proj_ba.weight.unflatten(0, (mixer.num_k_heads, 2, -1))
        return per_key_head[:, 1]

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Delta, softmax, delta."""
        from transformers import AutoModelForCausalLM, Qwen3NextConfig

        config = Qwen3NextConfig(
            **TINY,
            **TINY_EXPERTS,
            intermediate_size=16,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            mlp_only_layers=[0, 2],
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
