"""mamba_ssm's Mamba2Simple: Mamba-2 with fewer options."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.generations import Mamba2Adapter
from ssmlens.models.projections import Mamba2Weights


@register
class MambaSsmMamba2Simple(Mamba2Adapter):
    """`mamba_ssm.modules.mamba2_simple.Mamba2Simple`, with and without `use_mem_eff_path`.

    The fused kernel normalises each of the `ngroups` groups separately, the other path all channels together.
    """

    family = "mamba_ssm Mamba2Simple"
    mixers = ("mamba_ssm.modules.mamba2_simple.Mamba2Simple",)
    cache_argument = "inference_params"

    def refusal(self, mixer: Any, args: tuple, kwargs: Mapping[str, Any]) -> str | None:
        """See `Adapter.refusal`. Also refuses learned initial states."""
        if mixer.learnable_init_states:
            return "learned initial states (learnable_init_states) are not recorded: the output is then more than M x"
        return super().refusal(mixer, args, kwargs)

    def named_weights(self, mixer: Any) -> Mamba2Weights:
        """See `Mamba2Adapter.named_weights`."""
        return Mamba2Weights.of(
            mixer,
            headdim=mixer.headdim,
            d_state=mixer.d_state,
            ngroups=mixer.ngroups,
            dt_limit=tuple(mixer.dt_limit),
            norm_eps=mixer.norm.eps,
            norm_groups=mixer.ngroups if mixer.use_mem_eff_path else 1,
        )

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Needs a GPU. One block runs the fused kernel, one the other path."""
        from mamba_ssm.modules.mamba2_simple import Mamba2Simple  # pyright: ignore[reportMissingImports]

        from ssmlens.models.mamba_lm import MambaConfig, MambaLM

        ssm_cfg = {"layer": "Mamba2", "d_state": 32, "headdim": 32, "ngroups": 2}
        model = MambaLM(MambaConfig(d_model=128, n_layer=2, vocab_size=32, ssm_cfg=ssm_cfg))
        blocks: Any = model.backbone.layers
        for block, fused in zip(blocks, (True, False), strict=True):
            block.mixer = Mamba2Simple(
                128, d_state=32, headdim=32, ngroups=2, use_mem_eff_path=fused
            )
        return model.cuda()
