"""MambaLM's Mamba-2 mixer, the plain-torch twin of mamba_ssm's."""

from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.generations import Mamba2Adapter
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.models.projections import Mamba2Weights


@register
class SsmlensMamba2(Mamba2Adapter):
    """`ssmlens.models.mamba2.Mamba2`."""

    family = "ssmlens Mamba2"
    mixers = ("ssmlens.models.mamba2.Mamba2",)

    def named_weights(self, mixer: Any) -> Mamba2Weights:
        """See `Mamba2Adapter.named_weights`."""
        return mixer.weights()

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        ssm_cfg = {"layer": "Mamba2", "d_state": 6, "headdim": 4, "ngroups": 2}
        return MambaLM(MambaConfig(d_model=16, n_layer=3, vocab_size=32, ssm_cfg=ssm_cfg))
