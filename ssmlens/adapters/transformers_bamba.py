"""transformers' Bamba: Mamba-2 between attention blocks."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersMamba2Adapter


@register
class TransformersBamba(TransformersMamba2Adapter):
    """`transformers.models.bamba.BambaMixer`."""

    family = "transformers BambaMixer"
    mixers = ("transformers.models.bamba.modeling_bamba.BambaMixer",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Mamba, attention, Mamba."""
        from transformers import BambaConfig, BambaForCausalLM

        config = BambaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            attn_layer_indices=[1],
            num_attention_heads=2,
            num_key_value_heads=1,
            mamba_n_heads=8,
            mamba_n_groups=2,
            mamba_d_state=6,
            mamba_chunk_size=16,
            time_step_limit=(0.5, 1.2),
        )
        return BambaForCausalLM(config)
