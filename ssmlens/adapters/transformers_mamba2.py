"""transformers' Mamba-2."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersMamba2Adapter


@register
class TransformersMamba2(TransformersMamba2Adapter):
    """`transformers.models.mamba2.Mamba2Mixer`."""

    family = "transformers Mamba2Mixer"
    mixers = ("transformers.models.mamba2.modeling_mamba2.Mamba2Mixer",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        from transformers import Mamba2Config, Mamba2ForCausalLM

        config = Mamba2Config(
            vocab_size=32,
            hidden_size=16,
            state_size=6,
            num_hidden_layers=3,
            num_heads=8,
            head_dim=4,
            n_groups=2,
            chunk_size=16,
        )
        return Mamba2ForCausalLM(config)
