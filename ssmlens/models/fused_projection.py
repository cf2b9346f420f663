"""What a Mamba-1 mixer hands to its scan, on a GPU: in memory channels before tokens, as mamba_ssm's kernels read it.

The convolution with its bias and SiLU is one kernel of causal_conv1d, where torch takes seven, and nothing need be
copied for the scan.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.models.projections import Mamba1Weights
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.surroundings import Surroundings

# Taps that the kernel has code for.
_TAPS = (2, 3, 4)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fused_projection(
    hidden: Float[Tensor, "batch token d_model"], weights: Mamba1Weights
) -> DecayScan | None:
    """What `project_mamba1` returns without a mask, within rounding; differentiable once.

    None where causal_conv1d does not compute this: on a CPU, without the package, in float64, with another number of
    taps than 2 to 4 or another activation than SiLU; or where the family has layers of its own between the projections.
    """
    convolve = _kernel(hidden.device.type) if _fits(hidden, weights) else None
    if convolve is None:
        return None
    d_inner, d_state = weights.A_log.shape
    rank = weights.dt_proj_weight.shape[2]
    x_and_gate = _multiply(weights.in_proj_weight, hidden.mT)
    if weights.in_proj_bias is not None:
        x_and_gate = x_and_gate + weights.in_proj_bias.to(x_and_gate.dtype).unsqueeze(1)
    u, gate = x_and_gate.split(d_inner, dim=1)
    x = convolve(u, weights.conv_weight, weights.conv_bias, activation="silu")
    low = _multiply(weights.x_proj_weight[0], x)
    dt = _multiply(weights.dt_proj_weight[0], low[:, :rank])
    wide = scan_dtype(gate)
    dt = dt.to(wide) if weights.dt_bias is None else dt + weights.dt_bias.to(wide).unsqueeze(1)
    B, C = (v.mT.unsqueeze(2) for v in low[:, rank:].to(wide).split(d_state, dim=1))
    return DecayScan(
        delta=F.softplus(dt).mT,
        A=-torch.exp(weights.A_log.to(wide)),
        B=B,
        C=C,
        x=x.to(wide).mT.unsqueeze(3),
        D=weights.D.to(wide).unsqueeze(1),
        gate=gate.mT,
        surroundings=Surroundings(
            u=u.mT, conv_weight=weights.conv_weight, conv_bias=weights.conv_bias
        ),
    )


def _multiply(
    weight: Float[Tensor, "output input"], x: Float[Tensor, "batch input token"]
) -> Float[Tensor, "batch output token"]:
    """A linear layer whose output has its channels before its tokens in memory, too."""
    return torch.bmm(weight.expand(x.shape[0], -1, -1), x)


def _fits(hidden: Tensor, weights: Mamba1Weights) -> bool:
    silu = weights.activation is F.silu or isinstance(weights.activation, nn.SiLU)
    return (
        silu
        and not weights.called
        and weights.transform is None
        and weights.x_proj_weight.shape[0] == 1
        and weights.conv_weight.shape[1] in _TAPS
        and hidden.numel() > 0
        and hidden.dtype in _DTYPES
        and weights.in_proj_weight.dtype in _DTYPES
    )


@functools.cache
def _kernel(device: str) -> Callable[..., Any] | None:
    """Its function, or None where causal_conv1d cannot be imported, and on a CPU."""
    if device != "cuda":
        return None
    try:
        return importlib.import_module("causal_conv1d").causal_conv1d_fn
    except Exception:  # a missing package, driver or kernel: each raises its own
        return None
