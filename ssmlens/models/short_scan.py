"""The selective scan of Mamba-1 for short sequences, on a GPU: kernels with a backward pass.

mamba_ssm's kernels give each channel a block of threads that divide its tokens among them, 128 or more. Here a warp
goes through the tokens of its channels one by one and keeps their states in registers, so that nothing is lost on a
sequence of 50. The forward pass stores the states before every other token; the backward pass goes through these pairs
from the last to the first and makes the state within each again. Sums over channels and over the batch are taken in a
fixed order: the same operands give the same gradients, bit for bit.
"""

import importlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Tokens from one stored state to the next, threads that share a channel's states, numbers of a tile in each thread.
_CHUNK, _LANES = 2, 4
_FORWARD, _BACKWARD = 16, 16
_MAXREG = 168


def is_available() -> bool:
    """Whether Triton is there, with the Gluon that the kernels are written in (an experimental part of it)."""
    try:
        _kernels()
    except (ImportError, AttributeError):
        return False
    return True


def fits(channels: int, states: int) -> bool:
    """Whether `short_scan` takes a scan of this width."""
    return states in (16, 32, 64, 128) and channels % _width(states, max(_FORWARD, _BACKWARD)) == 0


def short_scan(
    u: Float[Tensor, "batch token channel"],
    dt: Float[Tensor, "batch token channel"],
    A: Float[Tensor, "channel state"],
    B: Float[Tensor, "batch token state"],
    C: Float[Tensor, "batch token state"],
    D: Float[Tensor, " channel"],
    z: Float[Tensor, "batch token channel"],
    dt_bias: Float[Tensor, " channel"],
) -> Float[Tensor, "batch token channel"]:
    """mamba_ssm's `selective_scan_fn` with `delta_softplus`, tokens before channels: (y + D u) SiLU(z).

    y[t] = C[t] h[t], h[t] = exp(Δ[t] A) h[t−1] + Δ[t] u[t] B[t], Δ = softplus(dt + dt_bias); computed in float32,
    the result in u's dtype. Differentiable, once. Fast below about 256 tokens.

    Args:
        u: Input of the scan, on a CUDA device, as all others are.
        dt: Step before its bias and softplus.
        A: Decay rates, float32.
        B: What a token writes with.
        C: What a token reads with.
        D: Skip connection, float32.
        z: Gate.
        dt_bias: Bias of the step, float32.
    """
    return _ShortScan.apply(u, dt, A.mT.contiguous(), B, C, D, z, dt_bias)


def _kernels() -> Any:
    """Their module, which imports Triton."""
    return importlib.import_module("ssmlens.models.short_scan_kernels")


class _ShortScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Tensor) -> Tensor:
        u, dt, A, B, C, D, z, bias = operands
        batch, tokens, channels = u.shape
        states = len(A)
        out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        y, steps = torch.empty((2, *u.shape), device=u.device).unbind()
        kept = torch.empty(batch, -(-tokens // _CHUNK), *A.shape, device=u.device)
        u, dt, B, C, z = (_rows(x) for x in (u, dt, B, C, z))
        strides = [x.stride(0) for x in (u, dt, B, C, z)]
        width = _width(states, _FORWARD)
        if out.numel():
            _kernels().forward[batch, channels // width](
                u, dt, A, B, C, D, z, bias, out, y, steps, kept, tokens, *strides,
                channels=channels, M=width, N=states, K=_CHUNK, L=_LANES, num_warps=1,
            )  # fmt: skip
        ctx.save_for_backward(u, dt, A, B, C, D, z, bias, y, steps, kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, D, z, bias, y, steps, kept = ctx.saved_tensors
        batch, tokens, channels = y.shape
        states = len(A)
        strides = [x.stride(0) for x in (u, dt, B, C, z)]
        du, ddt, dz = (torch.empty(y.shape, dtype=x.dtype, device=y.device) for x in (u, dt, z))
        width = _width(states, _BACKWARD)
        blocks = channels // width
        dA = torch.empty(batch, *A.shape, device=y.device)
        dBC = torch.empty(2, blocks, batch, tokens, states, device=y.device)
        dD_dbias = torch.empty(2, batch, channels, device=y.device)
        if du.numel():
            _kernels().backward[batch, blocks](
                u, dt, A, B, C, D, z, bias, y, steps, kept, grads[0].contiguous(),
                du, ddt, dz, dA, dBC, dD_dbias, batch, tokens, *strides,
                channels=channels, M=width, N=states, K=_CHUNK, L=_LANES, num_warps=1,
                maxnreg=_MAXREG,
            )  # fmt: skip
        dB, dC = dBC.sum(1).to(B.dtype).unbind()
        dD, dbias = dD_dbias.sum(1).unbind()
        return du, ddt, dA.sum(0), dB, dC, dD, dz, dbias


def _width(states: int, numbers: int) -> int:
    """Channels of a warp whose threads hold so many numbers of a tile each (more, where a state is that wide)."""
    return max(32 // _LANES, 32 * numbers // states)


def _rows(x: Tensor) -> Tensor:
    """[row column] with columns side by side, without a copy where there is none to make."""
    rows = x.flatten(0, 1)
    return rows if rows.stride(1) == 1 else rows.contiguous()
