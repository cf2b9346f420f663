"""mamba_ssm's Mamba-1, whose kernels run fused and unpatched."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.generations import Mamba1Adapter


@register
class MambaSsmMamba(Mamba1Adapter):
    """`mamba_ssm.Mamba`, with and without `use_fast_path`."""

    family = "mamba_ssm Mamba"
    mixers = ("mamba_ssm.modules.mamba_simple.Mamba",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Needs a GPU: mamba_ssm cannot be imported without one."""
        from mamba_ssm.models.config_mamba import MambaConfig  # pyright: ignore[reportMissingImports]
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel  # pyright: ignore[reportMissingImports]

        config = MambaConfig(d_model=64, n_layer=3, vocab_size=32, ssm_cfg={"d_state": 16})
        return MambaLMHeadModel(config, device="cuda")
