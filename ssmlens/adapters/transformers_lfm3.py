"""transformers' LFM3: LFM2's convolution with more taps, and norms after mixing and MLP."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.short_conv_shared import ShortConvAdapter


@register
class TransformersLfm3(ShortConvAdapter):
    """`transformers.models.lfm3.Lfm3ShortConv`."""

    family = "transformers Lfm3ShortConv"
    mixers = ("transformers.models.lfm3.modeling_lfm3.Lfm3ShortConv",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Convolution, softmax, convolution."""
        from transformers import AutoModelForCausalLM, Lfm3Config

        config = Lfm3Config(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            layer_types=["conv", "full_attention", "conv"],
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
