"""transformers' Qwen3.5: gated delta nets, every fourth block softmax attention."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import TINY, QwenDeltaAdapter


@register
class TransformersQwen35(QwenDeltaAdapter):
    """`transformers.models.qwen3_5.Qwen3_5GatedDeltaNet`."""

    family = "transformers Qwen3_5GatedDeltaNet"
    mixers = ("transformers.models.qwen3_5.modeling_qwen3_5.Qwen3_5GatedDeltaNet",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Delta, softmax, delta."""
        from transformers import AutoModelForCausalLM, Qwen3_5TextConfig

        config = Qwen3_5TextConfig(
            **TINY,
            intermediate_size=16,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
