"""transformers' Qwen3.5 with experts: gated delta nets, every fourth block softmax attention."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import QwenDeltaAdapter


@register
class TransformersQwen35Moe(QwenDeltaAdapter):
    """`transformers.models.qwen3_5_moe.Qwen3_5MoeGatedDeltaNet`."""

    family = "transformers Qwen3_5MoeGatedDeltaNet"
    mixers = ("transformers.models.qwen3_5_moe.modeling_qwen3_5_moe.Qwen3_5MoeGatedDeltaNet",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Delta, softmax, delta."""
        from transformers import AutoModelForCausalLM, Qwen3_5MoeTextConfig

        config = Qwen3_5MoeTextConfig(
            vocab_size=32,
            hidden_size=24,
            num_hidden_layers=3,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            linear_num_key_heads=3,
            linear_num_value_heads=6,
            linear_key_head_dim=5,
            linear_value_head_dim=7,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
