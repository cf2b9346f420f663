"""transformers' Qwen3.5 with experts: gated delta nets, every fourth block softmax attention."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import TINY, TINY_EXPERTS, QwenDeltaAdapter


@register
class TransformersQwen35Moe(QwenDeltaAdapter):
    """`transformers.models.qwen3_5_moe.Qwen3_5MoeGatedDeltaNet`."""

    family = "transformers Qwen3_5MoeGatedDeltaNet"
    mixers = ("transformers.models.qwen3_5_moe.modeling_qwen3_5_moe.Qwen3_5MoeGatedDeltaNet",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Delta, softmax, delta."""
        from transformers import AutoModelForCausalLM, Qwen3_5MoeTextConfig

        config = Qwen3_5MoeTextConfig(
            **TINY,
            **TINY_EXPERTS,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
