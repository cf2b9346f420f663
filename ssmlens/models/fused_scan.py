"""mamba_ssm's selective scan on the operands of a Mamba-1 layer: one kernel instead of torch's 300 or so."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operands import DecayOperands
from ssmlens.scan.operator import Operator

# The kernel's limit.
_MAX_STATES = 256


def fused_scan(
    o: Operator, x: Float[Tensor, "batch token head headdim"]
) -> Float[Tensor, "batch token head headdim"] | None:
    """M x without D, by `mamba_ssm.ops.selective_scan_interface.selective_scan_fn`; differentiable once.

    None if that kernel cannot compute it: on a CPU, without mamba_ssm, in a dtype other than float32, with one decay
    for all states of a head (Mamba-2), or if a token's write is not Δ.
    """
    scan = _kernel(x.device.type) if _fits(o, x) else None
    if scan is None:
        return None
    assert isinstance(o, DecayOperands)
    assert o.A is not None
    B, C = (_tokens_last(of_group.permute(0, 2, 3, 1)) for of_group in (o.B, o.C))
    y = scan(_tokens_last(x.squeeze(3).mT), _tokens_last(o.delta.mT), o.A.contiguous(), B, C)
    return y.mT.unsqueeze(3)


def is_fused(o: Operator, x: Float[Tensor, "batch token head headdim"]) -> bool:
    """Whether `fused_scan` computes this. The same operands then give the same bits."""
    return _fits(o, x) and _kernel(x.device.type) is not None


def _tokens_last(value: Tensor) -> Tensor:
    """The same, its tokens one after another in memory."""
    return value if value.stride(-1) == 1 else value.contiguous()


def _fits(o: Operator, x: Tensor) -> bool:
    return (
        isinstance(o, DecayOperands)
        and o.A is not None
        and not o.scalar_decay
        and o.write is None
        and o.write_now is None
        and x.shape[3] == 1
        and 0 < o.states <= _MAX_STATES
        and x.numel() > 0
        and all(tensor.dtype == torch.float32 for tensor in (x, o.delta, o.A, o.B, o.C))
    )


@functools.cache
def _kernel(device: str) -> Callable[..., Any] | None:
    """mamba_ssm's function; None on a CPU, or if mamba_ssm cannot be imported."""
    if device != "cuda":
        return None
    try:
        module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        return module.selective_scan_fn
    except Exception:  # a missing package, driver or kernel: each raises its own
        return None
