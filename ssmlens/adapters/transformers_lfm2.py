"""transformers' LFM2: gated short convolutions, some blocks softmax attention."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.short_conv_shared import ShortConvAdapter


@register
class TransformersLfm2(ShortConvAdapter):
    """`transformers.models.lfm2.Lfm2ShortConv`."""

    family = "transformers Lfm2ShortConv"
    mixers = ("transformers.models.lfm2.modeling_lfm2.Lfm2ShortConv",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Convolution, softmax, convolution."""
        from transformers import AutoModelForCausalLM, Lfm2Config

        config = Lfm2Config(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            layer_types=["conv", "full_attention", "conv"],
            num_attention_heads=2,
            num_key_value_heads=1,
            block_multiple_of=4,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
