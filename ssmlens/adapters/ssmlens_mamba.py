"""MambaLM's Mamba-1 mixer, the plain-torch twin of mamba_ssm's."""

from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.generations import Mamba1Adapter
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.models.projections import Mamba1Weights


@register
class SsmlensMamba(Mamba1Adapter):
    """`ssmlens.models.mamba.Mamba`."""

    family = "ssmlens Mamba"
    mixers = ("ssmlens.models.mamba.Mamba",)

    def named_weights(self, mixer: Any) -> Mamba1Weights:
        """See `Mamba1Adapter.named_weights`."""
        return mixer.weights()

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        return MambaLM(MambaConfig(d_model=16, n_layer=3, vocab_size=32, ssm_cfg={"d_state": 5}))
