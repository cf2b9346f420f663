"""transformers' OLMo-Hybrid: gated delta nets whose writes may overshoot (β up to 2), some blocks softmax attention."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import DeltaAdapter, convolution, gated_norm
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.projections_delta import DeltaInputs, DeltaWeights

_LINEAR = ("q_proj", "k_proj", "v_proj", "b_proj", "a_proj", "g_proj")


@register
class TransformersOlmoHybrid(DeltaAdapter):
    """`transformers.models.olmo_hybrid.OlmoHybridGatedDeltaNet`."""

    family = "transformers OlmoHybridGatedDeltaNet"
    norm = "o_norm"
    out_proj = "o_proj"
    mixers = ("transformers.models.olmo_hybrid.modeling_olmo_hybrid.OlmoHybridGatedDeltaNet",)

    def named_weights(self, mixer: Any) -> DeltaWeights:
        """See `DeltaAdapter.named_weights`."""
        return DeltaWeights(
            W_q=mixer.q_proj.weight.unflatten(0, (-1, mixer.head_k_dim)),
            W_k=mixer.k_proj.weight.unflatten(0, (-1, mixer.head_k_dim)),
            W_v=mixer.v_proj.weight.unflatten(0, (-1, mixer.head_v_dim)),
            W_beta=mixer.b_proj.weight,
            W_decay=(mixer.a_proj.weight,),
            W_gate=(mixer.g_proj.weight,),
            A_log=mixer.A_log,
            dt_bias=mixer.dt_bias,
            out_proj_weight=mixer.o_proj.weight,
            beta_scale=2.0 if mixer.allow_neg_eigval else 1.0,
            round_norm=True,
            **(convolution(mixer) if hasattr(mixer, "conv1d") else _three_convolutions(mixer)),
            **gated_norm(mixer.o_norm),
            **self.calls(mixer, _LINEAR),
        )

    def call_layers(self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]) -> DeltaInputs:
        """See `DeltaAdapter.call_layers`."""
        return DeltaInputs(*(getattr(mixer, name)(hidden) for name in _LINEAR))

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. If q, k and v have separate convolutions, `conv` is None."""
        views = super().weights(mixer)
        if hasattr(mixer, "conv1d"):
            return views
        per_group = (mixer.num_k_heads, -1)
        return dataclasses.replace(
            views,
            conv=None,
            conv_B=mixer.k_conv1d.weight.squeeze(1).unflatten(0, per_group),
            conv_C=mixer.q_conv1d.weight.squeeze(1).unflatten(0, per_group),
        )

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Delta, softmax, delta."""
        from transformers import AutoModelForCausalLM, OlmoHybridConfig

        config = OlmoHybridConfig(
            vocab_size=32,
            hidden_size=24,
            intermediate_size=16,
            num_hidden_layers=3,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            num_attention_heads=2,
            linear_num_key_heads=3,
            linear_num_value_heads=6,
            linear_key_head_dim=5,
            linear_value_head_dim=7,
            linear_a_log_min=1.0,
            pad_token_id=0,
            eos_token_id=1,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def _three_convolutions(mixer: Any) -> dict[str, Any]:
    """As `convolution`, for older transformers, where q, k and v have separate convolutions with SiLU."""
    parts = (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)
    return {"conv_weight": torch.cat([part.weight.squeeze(1) for part in parts])}
