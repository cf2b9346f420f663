"""mamba_ssm's Mamba-2, whose kernels run fused and unpatched."""

from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.generations import Mamba2Adapter
from ssmlens.adapters.mamba_ssm_shared import tiny_lm
from ssmlens.errors import UsageError
from ssmlens.models.projections import Mamba2Weights


@register
class MambaSsmMamba2(Mamba2Adapter):
    """`mamba_ssm.Mamba2`, with and without `use_mem_eff_path`."""

    family = "mamba_ssm Mamba2"
    mixers = ("mamba_ssm.modules.mamba2.Mamba2",)
    cache_argument = "inference_params"

    def named_weights(self, mixer: Any) -> Mamba2Weights:
        """See `Mamba2Adapter.named_weights`. Raises UsageError for a tensor-parallel mixer."""
        if mixer.process_group is not None:
            raise UsageError(
                "a tensor-parallel Mamba2 (process_group) has only a part of its weights"
            )
        norm = mixer.norm if mixer.rmsnorm else None
        return Mamba2Weights.of(
            mixer,
            headdim=mixer.headdim,
            d_state=mixer.d_state,
            ngroups=mixer.ngroups,
            dt_limit=tuple(mixer.dt_limit),
            norm_before_gate=mixer.norm_before_gate,
            norm_eps=norm.eps if norm is not None else 1e-5,
        )

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`; needs a GPU."""
        return tiny_lm(128, layer="Mamba2", d_state=32, headdim=32)
