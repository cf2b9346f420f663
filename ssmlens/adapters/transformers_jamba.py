"""transformers' Jamba: Mamba-1 with learned norms on dt, B and C, between attention blocks."""

from typing import Any

from torch import Tensor, nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersMamba1Adapter
from ssmlens.models.projections import Mamba1Weights, rms_norm


@register
class TransformersJamba(TransformersMamba1Adapter):
    """`transformers.models.jamba.JambaMambaMixer`."""

    family = "transformers JambaMambaMixer"
    mixers = ("transformers.models.jamba.modeling_jamba.JambaMambaMixer",)

    def named_weights(self, mixer: Any) -> Mamba1Weights:
        """See `Mamba1Adapter.named_weights`."""
        norms = (mixer.dt_layernorm, mixer.b_layernorm, mixer.c_layernorm)

        def transform(*parts: Tensor) -> tuple[Tensor, ...]:
            return tuple(
                rms_norm(part, norm.weight, norm.variance_epsilon)
                for part, norm in zip(parts, norms, strict=True)
            )

        return Mamba1Weights.of(mixer, activation=mixer.act, transform=transform)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Mamba, attention, Mamba; the first and the last with experts."""
        from transformers import JambaConfig, JambaForCausalLM

        config = JambaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            attn_layer_period=3,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=0,
            num_experts=2,
            mamba_d_state=5,
            mamba_dt_rank=3,
            rms_norm_eps=1e-3,
            use_mamba_kernels=True,
        )
        return JambaForCausalLM(config)
