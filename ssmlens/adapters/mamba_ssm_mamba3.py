"""mamba_ssm's Mamba-3 of rank one (SISO), whose kernels run fused and unpatched."""

from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.mamba3_shared import Mamba3Adapter
from ssmlens.adapters.mamba_ssm_shared import tiny_lm


@register
class MambaSsmMamba3(Mamba3Adapter):
    """`mamba_ssm.Mamba3`; with `is_mimo=True` it is refused."""

    family = "mamba_ssm Mamba3"
    mixers = ("mamba_ssm.modules.mamba3.Mamba3",)
    cache_argument = "inference_params"

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Needs a GPU.

        `MambaLMHeadModel` of mamba_ssm 2.3 cannot build Mamba3 by name, so the mixers are replaced.
        """
        from mamba_ssm.modules.mamba3 import Mamba3  # pyright: ignore[reportMissingImports]

        model: Any = tiny_lm(64)
        for index, block in enumerate(model.backbone.layers):
            block.mixer = Mamba3(64, d_state=32, headdim=32, layer_idx=index, device="cuda")
        return model
