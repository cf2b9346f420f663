"""transformers' LFM2-MoE: LFM2 with mixtures of experts."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.short_conv_shared import ShortConvAdapter


@register
class TransformersLfm2Moe(ShortConvAdapter):
    """`transformers.models.lfm2_moe.Lfm2MoeShortConv`."""

    family = "transformers Lfm2MoeShortConv"
    mixers = ("transformers.models.lfm2_moe.modeling_lfm2_moe.Lfm2MoeShortConv",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Convolution, softmax, convolution; the last two with experts."""
        from transformers import AutoModelForCausalLM, Lfm2MoeConfig

        config = Lfm2MoeConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            moe_intermediate_size=8,
            num_hidden_layers=3,
            num_dense_layers=1,
            num_experts=2,
            num_experts_per_tok=1,
            layer_types=["conv", "full_attention", "conv"],
            num_attention_heads=2,
            num_key_value_heads=1,
            conv_L_cache=4,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
