"""transformers' Mamba-1."""

from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.generations import Mamba1Adapter
from ssmlens.models.projections import Mamba1Weights


@register
class TransformersMamba(Mamba1Adapter):
    """`transformers.models.mamba.MambaMixer`."""

    family = "transformers MambaMixer"
    mixers = ("transformers.models.mamba.modeling_mamba.MambaMixer",)

    def named_weights(self, mixer: Any) -> Mamba1Weights:
        """See `Mamba1Adapter.named_weights`."""
        return Mamba1Weights.of(mixer, activation=mixer.act)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        from transformers import MambaConfig, MambaForCausalLM

        config = MambaConfig(
            vocab_size=32, hidden_size=16, state_size=5, num_hidden_layers=3, time_step_rank=3
        )
        return MambaForCausalLM(config)
