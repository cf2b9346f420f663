"""Common code of the Mamba-1 and of the Mamba-2 families: each generation's arithmetic over its named weights."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.adapter import Adapter, MixerInput
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.fused_projection import fused_projection
from ssmlens.models.projections import (
    Mamba1Weights,
    Mamba2Weights,
    finish_mamba1,
    finish_mamba2,
    project_mamba1,
    project_mamba2,
)
from ssmlens.scan.operator import Operator


class _AdapterFromWeights(Adapter):
    """A mixer whose arithmetic is a pair of functions of its named weights (`models.projections`)."""

    _project: Callable[..., Operator]
    _finish: Callable[..., Tensor]

    @abstractmethod
    def named_weights(self, mixer: Any) -> Any:
        """The weights and settings as the generation's functions take them."""

    def project(self, mixer: nn.Module, given: MixerInput) -> Operator:
        """See `Adapter.project`."""
        return type(self)._project(given.hidden, self.named_weights(mixer), given.token_mask)

    def finish(
        self,
        mixer: nn.Module,
        y: Float[Tensor, "batch token head headdim"],
        operands: Operator,
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`."""
        return type(self)._finish(y, operands.gate, self.named_weights(mixer))


class Mamba1Adapter(_AdapterFromWeights):
    """Mixers that compute Δ, B and C from the convolved x (Gu & Dao 2023)."""

    _project, _finish = staticmethod(project_mamba1), staticmethod(finish_mamba1)

    def named_weights(self, mixer: Any) -> Mamba1Weights:
        """The weights as `models.projections` takes them."""
        return Mamba1Weights.of(mixer)

    def project_fast(self, mixer: nn.Module, given: MixerInput) -> Operator:
        """See `Adapter.project_fast`: uses causal_conv1d's kernel if it is installed and supports this layer."""
        weights = self.named_weights(mixer)
        fused = None if given.token_mask is not None else fused_projection(given.hidden, weights)
        return project_mamba1(given.hidden, weights, given.token_mask) if fused is None else fused

    def weights(self, mixer: nn.Module) -> WeightViews:
        """See `Adapter.weights`. The rows of `x_proj` are those of dt, B and C, in this order."""
        w = self.named_weights(mixer)
        rank, d_state = w.dt_proj_weight.shape[2], w.A_log.shape[1]
        W_dt, W_B, W_C = w.x_proj_weight.split([rank, d_state, d_state], dim=1)
        return WeightViews(
            A_log=w.A_log,
            dt_bias=w.dt_bias,
            W_dt=W_dt.squeeze(0) if len(W_dt) == 1 else None,
            W_B=W_B,
            W_C=W_C,
            conv=w.conv_weight,
            D=w.D.unsqueeze(1),
            dt_proj=w.dt_proj_weight.flatten(0, 1),
            conv_bias=w.conv_bias,
        )


class Mamba2Adapter(_AdapterFromWeights):
    """Mixers whose in_proj computes Δ, B, C and x, and whose convolution acts on x, B and C (Dao & Gu 2024)."""

    tf32_kernels = True
    fresh_A_log = (0.0, math.log(16))
    _project, _finish = staticmethod(project_mamba2), staticmethod(finish_mamba2)

    @abstractmethod
    def named_weights(self, mixer: Any) -> Mamba2Weights:
        """The weights and settings as `models.projections` takes them."""

    def project_fast(self, mixer: nn.Module, given: MixerInput) -> Operator:
        """See `Adapter.project_fast`: uses causal_conv1d's kernel if it is installed and supports this layer."""
        weights = self.named_weights(mixer)
        return project_mamba2(given.hidden, weights, given.token_mask, fast=True)

    def weights(self, mixer: nn.Module) -> WeightViews:
        """See `Adapter.weights`. The rows of `in_proj` are those of the gate, x, B, C and dt, in this order."""
        w = self.named_weights(mixer)
        heads, d_BC = w.A_log.shape[0], w.ngroups * w.d_state
        per_group = (w.ngroups, w.d_state)
        _, W_B, W_C, W_dt = w.in_proj_weight.split(
            [w.in_proj_weight.shape[0] - 2 * d_BC - heads, d_BC, d_BC, heads]
        )
        _, conv_B, conv_C = w.conv_weight.split([w.d_ssm, d_BC, d_BC])
        return WeightViews(
            A_log=w.A_log.unsqueeze(1),
            dt_bias=w.dt_bias,
            W_dt=W_dt,
            W_B=W_B.unflatten(0, per_group),
            W_C=W_C.unflatten(0, per_group),
            conv=w.conv_weight,
            D=w.D.view(heads, -1),
            conv_bias=w.conv_bias,
            conv_B=conv_B.unflatten(0, per_group),
            conv_C=conv_C.unflatten(0, per_group),
        )

    def settings(self, mixer: nn.Module) -> dict[str, Any]:
        """See `Adapter.settings`."""
        w = self.named_weights(mixer)
        return {
            "dt_limit": w.dt_limit,
            "norm_before_gate": w.norm_before_gate,
            "norm_groups": w.norm_groups or w.ngroups,
        }
