"""mamba_ssm's Mamba-1, whose kernels run fused and unpatched."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.generations import Mamba1Adapter
from ssmlens.adapters.mamba_ssm_shared import tiny_lm


@register
class MambaSsmMamba(Mamba1Adapter):
    """`mamba_ssm.Mamba`, with and without `use_fast_path`."""

    family = "mamba_ssm Mamba"
    mixers = ("mamba_ssm.modules.mamba_simple.Mamba",)
    cache_argument = "inference_params"

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`; needs a GPU."""
        return tiny_lm(64, d_state=16)
