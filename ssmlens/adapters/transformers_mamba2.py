"""transformers' Mamba-2."""

from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.generations import Mamba2Adapter
from ssmlens.models.projections import Mamba2Weights


@register
class TransformersMamba2(Mamba2Adapter):
    """`transformers.models.mamba2.Mamba2Mixer`."""

    family = "transformers Mamba2Mixer"
    mixers = ("transformers.models.mamba2.modeling_mamba2.Mamba2Mixer",)

    def named_weights(self, mixer: Any) -> Mamba2Weights:
        """See `Mamba2Adapter.named_weights`."""
        return Mamba2Weights.of(
            mixer,
            headdim=mixer.head_dim,
            d_state=mixer.ssm_state_size,
            ngroups=mixer.n_groups,
            dt_limit=tuple(mixer.time_step_limit),
            norm_eps=mixer.norm.variance_epsilon,
            activation=mixer.act,
        )

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
            chunk_size=8,
        )
        return Mamba2ForCausalLM(config)
