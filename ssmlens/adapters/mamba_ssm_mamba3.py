"""mamba_ssm's Mamba-3 of rank one (SISO), whose kernels run fused and unpatched."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.generations import Mamba3Adapter


@register
class MambaSsmMamba3(Mamba3Adapter):
    """`mamba_ssm.Mamba3`; with `is_mimo=True` it is refused."""

    family = "mamba_ssm Mamba3"
    mixers = ("mamba_ssm.modules.mamba3.Mamba3",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Needs a GPU: mamba_ssm cannot be imported without one.

        `MambaLMHeadModel` of mamba_ssm 2.3 takes no Mamba3 by name: its mixers are put in place of others.
        """
        from mamba_ssm.models.config_mamba import MambaConfig  # pyright: ignore[reportMissingImports]
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel  # pyright: ignore[reportMissingImports]
        from mamba_ssm.modules.mamba3 import Mamba3  # pyright: ignore[reportMissingImports]

        model = MambaLMHeadModel(MambaConfig(d_model=64, n_layer=3, vocab_size=32), device="cuda")
        for index, block in enumerate(model.backbone.layers):
            block.mixer = Mamba3(64, d_state=32, headdim=32, layer_idx=index, device="cuda")
        return model
