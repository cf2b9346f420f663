"""transformers' Falcon-Mamba: Mamba-1 with norms without weights on dt, B and C."""

from functools import partial
from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersMamba1Adapter
from ssmlens.models.projections import Mamba1Weights, rms_norm


@register
class TransformersFalconMamba(TransformersMamba1Adapter):
    """`transformers.models.falcon_mamba.FalconMambaMixer`.

    Computes as the torch code and the kernels of eval mode. In train mode the model calls mamba_ssm's fused kernel,
    which normalises dt after dt_proj instead of before; closure fails there.
    """

    family = "transformers FalconMambaMixer"
    mixers = ("transformers.models.falcon_mamba.modeling_falcon_mamba.FalconMambaMixer",)

    def named_weights(self, mixer: Any) -> Mamba1Weights:
        """See `Mamba1Adapter.named_weights`."""
        norm = partial(rms_norm, weight=None, eps=mixer.rms_eps)
        return Mamba1Weights.of(
            mixer,
            activation=mixer.act,
            transform=lambda dt, B, C: (norm(dt), norm(B), norm(C)),
        )

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        from transformers import FalconMambaConfig, FalconMambaForCausalLM

        config = FalconMambaConfig(
            vocab_size=32,
            hidden_size=16,
            state_size=5,
            num_hidden_layers=3,
            time_step_rank=3,
            mixer_rms_eps=1e-3,
        )
        return FalconMambaForCausalLM(config)
