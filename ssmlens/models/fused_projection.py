"""What a Mamba-1 mixer hands to its scan, on a GPU: in memory channels before tokens, as mamba_ssm's kernels read it.

The convolution is one kernel, and nothing need be copied for the scan.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssmlens.models.fused_convolution import fused_convolution, kernel
from ssmlens.models.projections import Mamba1Weights, mamba1_scan
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.decay_scan import DecayScan


def fused_projection(
    hidden: Float[Tensor, "batch token d_model"], weights: Mamba1Weights
) -> DecayScan | None:
    """What `project_mamba1` returns without a mask, within rounding; differentiable once.

    None where `fused_convolution` does not compute this, and where the family has layers of its own, or of several
    groups, between the projections.
    """
    plain = not weights.called and weights.transform is None and weights.x_proj_weight.shape[0] == 1
    if not plain or not hidden.numel() or kernel(hidden.device.type) is None:
        return None
    d_inner, d_state = weights.A_log.shape
    rank = weights.dt_proj_weight.shape[2]
    x_and_gate = _multiply(weights.in_proj_weight, hidden.mT)
    if weights.in_proj_bias is not None:
        x_and_gate = x_and_gate + weights.in_proj_bias.to(x_and_gate.dtype).unsqueeze(1)
    u, gate = (v.mT for v in x_and_gate.split(d_inner, dim=1))
    x = fused_convolution(u, weights.conv_weight, weights.conv_bias, weights.activation)
    if x is None:
        return None
    low = _multiply(weights.x_proj_weight[0], x.mT)
    dt = _multiply(weights.dt_proj_weight[0], low[:, :rank])
    wide = scan_dtype(gate)
    dt = dt.to(wide) if weights.dt_bias is None else dt + weights.dt_bias.to(wide).unsqueeze(1)
    B, C = (v.mT.unsqueeze(2) for v in low[:, rank:].to(wide).split(d_state, dim=1))
    return mamba1_scan(weights, u=u, x=x, gate=gate, delta=F.softplus(dt).mT, B=B, C=C)


def _multiply(
    weight: Float[Tensor, "output input"], x: Float[Tensor, "batch input token"]
) -> Float[Tensor, "batch output token"]:
    """A linear layer whose output has its channels before its tokens in memory, too."""
    return torch.bmm(weight.expand(x.shape[0], -1, -1), x)
