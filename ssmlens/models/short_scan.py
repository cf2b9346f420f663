"""The selective scan of Mamba-1 for short sequences, on a GPU: kernels with a backward pass.

mamba_ssm's kernels give each channel a block of 128 or more threads, which divide its tokens among them. Here a warp
goes through the tokens of its channels one by one and keeps their states in registers, which wastes nothing on a
sequence of 50. The forward pass stores the states before every other token; the backward pass goes through these pairs
from last to first and recomputes the state inside each. Sums over channels and over the batch are taken in a fixed
order: the same operands give the same gradients, bit for bit.
"""

import functools
import importlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmlens.scan import trial

# Tokens from one stored state to the next, threads that share a channel's states, states per thread. This is the
# fastest of nine triples on an H200: 59 and 114 µs for the two passes (64 × 52 tokens, 512 channels, N 32). Storing a
# state every 4 tokens takes half the memory, and 51 and 142 µs.
_CHUNK, _LANES, _STATES_PER_THREAD = 2, 4, 16


@functools.cache
def is_available(device: torch.device) -> bool:
    """Whether the kernels run on this device: tried once, by a scan of two tokens; if not, a warning says why.

    They are written in Gluon, an experimental part of Triton: they may not compile with another version or GPU.
    """
    return trial.succeeds(
        lambda: _try(device), "Mamba-1 trains with mamba_ssm's scan; the short one fails here"
    )


def fits(channels: int, states: int) -> bool:
    """Whether `short_scan` takes a scan of this width: 16, 32, 64 or 128 states, a multiple of 32 channels."""
    return states in (16, 32, 64, 128) and channels % 32 == 0


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
    """Scan as mamba_ssm's `selective_scan_fn` with `delta_softplus` does, tokens before channels: (y + D u) SiLU(z).

    y[t] = C[t] h[t], h[t] = exp(Δ[t] A) h[t−1] + Δ[t] u[t] B[t], Δ = softplus(dt + dt_bias): algorithm 2 of Gu and
    Dao, 2023. Computed in float32; the result has u's dtype. Differentiable once. The backward pass needs
    2·batch·tokens·channels·states bytes of stored states.

    Args:
        u: Input of the scan. All arguments are on one CUDA device.
        dt: Step before its bias and softplus.
        A: Decay rates, float32.
        B: Write vectors.
        C: Read vectors.
        D: Skip connection, float32.
        z: Gate.
        dt_bias: Bias of the step, float32.
    """
    return _ShortScan.apply(u, dt, A.mT.contiguous(), B, C, D, z, dt_bias)


@torch.enable_grad()
def _try(device: torch.device) -> None:
    """Run both passes of the smallest scan. Raises any error of Triton or the GPU."""
    states, channels = 16, _width(16)
    row, column = (1, 2, channels), (1, 2, states)
    shapes = (row, row, (channels, states), column, column, (channels,), row, (channels,))
    leaves = [torch.zeros(shape, device=device, requires_grad=True) for shape in shapes]
    torch.autograd.grad(short_scan(*leaves).sum(), leaves)[0].cpu()


def _kernels() -> Any:
    """The kernels' module, which imports Triton."""
    return importlib.import_module("ssmlens.models.short_scan_kernels")


class _ShortScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Tensor) -> Tensor:
        u, dt, A, B, C, D, z, bias = operands
        batch, tokens, channels = u.shape
        states = len(A)
        out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        y, steps = torch.empty((2, *u.shape), device=u.device).unbind()
        saved = torch.empty(batch, -(-tokens // _CHUNK), *A.shape, device=u.device)
        u, dt, B, C, z = (_rows(x) for x in (u, dt, B, C, z))
        strides = [x.stride(0) for x in (u, dt, B, C, z)]
        width = _width(states)
        if out.numel():
            with torch.cuda.device_of(u):
                _kernels().scan_forward[batch, channels // width](
                    u, dt, A, B, C, D, z, bias, out, y, steps, saved, tokens, *strides,
                    channels=channels, M=width, N=states, K=_CHUNK, L=_LANES, num_warps=1,
                )  # fmt: skip
        ctx.save_for_backward(u, dt, A, B, C, D, z, bias, y, steps, saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, ...]:
        u, dt, A, B, C, D, z, bias, y, steps, saved = ctx.saved_tensors
        batch, tokens, channels = y.shape
        states = len(A)
        strides = [x.stride(0) for x in (u, dt, B, C, z)]
        du, ddt, dz = (torch.empty(y.shape, dtype=x.dtype, device=y.device) for x in (u, dt, z))
        width = _width(states)
        blocks = channels // width
        dA = torch.empty(batch, *A.shape, device=y.device)
        dBC = torch.empty(2, blocks, batch, tokens, states, device=y.device)
        dD_dbias = torch.empty(2, batch, channels, device=y.device)
        with torch.cuda.device_of(u):
            _kernels().scan_backward[batch, blocks](
                u, dt, A, B, C, D, z, bias, y, steps, saved, grads[0].contiguous(),
                du, ddt, dz, dA, dBC, dD_dbias, batch, tokens, *strides,
                channels=channels, M=width, N=states, K=_CHUNK, L=_LANES, num_warps=1,
            )  # fmt: skip
        dB, dC = dBC.sum(1).to(B.dtype).unbind()
        dD, dbias = dD_dbias.sum(1).unbind()
        return du, ddt, dA.sum(0), dB, dC, dD, dz, dbias


def _width(states: int) -> int:
    """Channels of a warp, at least one per group of `_LANES` threads (with 128 states each thread then has 32)."""
    return max(32 // _LANES, 32 * _STATES_PER_THREAD // states)


def _rows(x: Tensor) -> Tensor:
    """Flatten to [row column] with contiguous columns; copy only if needed."""
    rows = x.flatten(0, 1)
    return rows if rows.stride(1) == 1 else rows.contiguous()
