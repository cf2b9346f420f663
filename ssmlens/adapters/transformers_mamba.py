"""transformers' Mamba-1."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersMamba1Adapter


@register
class TransformersMamba(TransformersMamba1Adapter):
    """`transformers.models.mamba.MambaMixer`."""

    family = "transformers MambaMixer"
    mixers = ("transformers.models.mamba.modeling_mamba.MambaMixer",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        from transformers import MambaConfig, MambaForCausalLM

        config = MambaConfig(
            vocab_size=32, hidden_size=16, state_size=5, num_hidden_layers=3, time_step_rank=3
        )
        return MambaForCausalLM(config)
