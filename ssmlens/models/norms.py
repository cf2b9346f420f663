"""Norms of MambaLM: they compute in the dtype of their input, whatever the dtype of their weights."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.models.projections import group_rms_norm


class RMSNorm(nn.RMSNorm):
    """x / √(mean x² + eps) · weight, over the last axis."""

    def forward(self, x: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes channel"]:
        """The norm of `x`, in its dtype."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """(x − mean) / √(variance + eps) · weight + bias, over the last axis."""

    def forward(self, input: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes channel"]:
        """The norm of `input`, in its dtype."""
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class GroupRMSNorm(nn.RMSNorm):
    """RMSNorm of each of `groups` equal parts of the channels.

    Args:
        channels: Number of channels.
        groups: Number of parts; each is normalised separately.
        **settings: Arguments of `nn.RMSNorm`.
    """

    def __init__(self, channels: int, groups: int = 1, **settings: Any):
        super().__init__(channels, **settings)
        self.groups = groups

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """The norm of `x`, in its dtype."""
        return group_rms_norm(x, self.weight, self.groups, float(self.eps or 0))


class GatedRMSNorm(GroupRMSNorm):
    """The norm of x · SiLU(gate), or, with `norm_before_gate`, norm(x) · SiLU(gate). As mamba_ssm's `RMSNormGated`.

    Args:
        channels: Number of channels.
        groups: Number of parts; each is normalised separately.
        norm_before_gate: Whether the gate comes after the norm.
        **settings: Arguments of `nn.RMSNorm`.
    """

    def __init__(
        self, channels: int, groups: int = 1, norm_before_gate: bool = False, **settings: Any
    ):
        super().__init__(channels, groups, **settings)
        self.norm_before_gate = norm_before_gate

    def forward(
        self,
        x: Float[Tensor, "batch token channel"],
        gate: Float[Tensor, "batch token channel"] | None = None,
    ) -> Float[Tensor, "batch token channel"]:
        """The norm of `x` with its gate, in its dtype."""
        if gate is None:
            return super().forward(x)
        gate = F.silu(gate.to(x.dtype))
        return super().forward(x) * gate if self.norm_before_gate else super().forward(x * gate)
