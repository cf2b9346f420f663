"""Common code of the Mamba-3 families: their arithmetic over mamba_ssm's parameter names."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.adapter import Adapter, MixerInput
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.errors import UnsupportedModelError
from ssmlens.models.mamba3 import MIMO_REFUSED
from ssmlens.models.projections_mamba3 import Mamba3Weights, finish_mamba3, project_mamba3
from ssmlens.scan.operator import Operator


class Mamba3Adapter(Adapter):
    """Mixers with a decay that depends on the data, a trapezoidal write, and no convolution."""

    tf32_kernels = True

    def named_weights(self, mixer: Any) -> Mamba3Weights:
        """The weights as `models.projections_mamba3` takes them. Raises UnsupportedModelError for MIMO."""
        if mixer.is_mimo:
            raise UnsupportedModelError(MIMO_REFUSED)
        return Mamba3Weights.of(mixer)

    def refusal(self, mixer: Any, args: tuple, kwargs: Mapping[str, Any]) -> str | None:
        """See `Adapter.refusal`. Also refuses MIMO."""
        return MIMO_REFUSED if mixer.is_mimo else super().refusal(mixer, args, kwargs)

    def project(self, mixer: nn.Module, given: MixerInput) -> Operator:
        """See `Adapter.project`."""
        return project_mamba3(given.hidden, self.named_weights(mixer), given.token_mask)

    def finish(
        self,
        mixer: nn.Module,
        y: Float[Tensor, "batch token head headdim"],
        operands: Operator,
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`."""
        assert operands.gate is not None
        return finish_mamba3(y, operands.gate, self.named_weights(mixer))

    def weights(self, mixer: nn.Module) -> WeightViews:
        """See `Adapter.weights`. W_B and W_C have `ngroups` groups, the operands B and C one group per head."""
        w = self.named_weights(mixer)
        _, _, W_B, W_C, W_dt, *_ = w.in_proj_weight.split(w.rows)
        per_group = (w.ngroups, -1)
        return WeightViews(
            dt_bias=w.dt_bias,
            W_dt=W_dt,
            W_B=W_B.unflatten(0, per_group),
            W_C=W_C.unflatten(0, per_group),
            D=w.D.unsqueeze(1),
        )
