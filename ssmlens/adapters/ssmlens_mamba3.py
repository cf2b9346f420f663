"""MambaLM's Mamba-3 mixer, the plain-torch twin of mamba_ssm's."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.mamba3_shared import Mamba3Adapter
from ssmlens.models.mamba_lm import MambaConfig, MambaLM


@register
class SsmlensMamba3(Mamba3Adapter):
    """`ssmlens.models.mamba3.Mamba3`."""

    family = "ssmlens Mamba3"
    mixers = ("ssmlens.models.mamba3.Mamba3",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        ssm_cfg = {"layer": "Mamba3", "d_state": 6, "headdim": 4, "ngroups": 2}
        return MambaLM(MambaConfig(d_model=16, n_layer=3, vocab_size=32, ssm_cfg=ssm_cfg))
