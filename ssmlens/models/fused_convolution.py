"""The convolution before a scan with its bias and SiLU, by causal_conv1d's kernel: one, where torch takes seven."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# Taps that the kernel has code for.
_TAPS = (2, 3, 4)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Where channels come last in memory, it reads that many at once.
_AT_ONCE = 8


def fused_convolution(
    u: Float[Tensor, "batch token channel"],
    weight: Float[Tensor, "channel tap"],
    bias: Float[Tensor, "channel"] | None,
    activation: Callable[[Tensor], Tensor],
) -> Float[Tensor, "batch token channel"] | None:
    """SiLU(conv(u) + bias), in float32 and rounded once to u's dtype, laid out in memory as u; differentiable once.

    None where the kernel does not compute this: on a CPU, without the package, in float64, with another number of taps
    than 2 to 4 or another activation than SiLU, or where it cannot read u as it lies in memory.
    """
    silu = activation is F.silu or isinstance(activation, nn.SiLU)
    known = weight.shape[1] in _TAPS and u.dtype in _DTYPES and weight.dtype in _DTYPES
    if not (silu and known and u.numel() and _is_readable(u)):
        return None
    convolve = kernel(u.device.type)
    return None if convolve is None else convolve(u.mT, weight, bias, activation="silu").mT


def _is_readable(u: Tensor) -> bool:
    """Whether tokens, or channels in eights, are one after another in memory."""
    if u.stride(1) == 1:
        return True
    in_eights = (u.shape[2], u.stride(0), u.stride(1), u.storage_offset())
    return u.stride(2) == 1 and all(size % _AT_ONCE == 0 for size in in_eights)


@functools.cache
def kernel(device: str) -> Callable[..., Any] | None:
    """Its function, or None where causal_conv1d cannot be imported, and on a CPU."""
    if device != "cuda":
        return None
    try:
        return importlib.import_module("causal_conv1d").causal_conv1d_fn
    except Exception:  # a missing package, driver or kernel: each raises its own
        return None
