"""The sum over any set of edges of a decay scan, on a GPU: their contribution to its output. An edge is an entry of M.

torch would write the decays of all pairs, heads and states to memory in float64 and read them again. Here they stay in
registers, and the host needs no count of the edges.
"""

import functools
import importlib
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssmlens.scan import trial
from ssmlens.scan.operands import DecayOperands
from ssmlens.scan.operator import Operator
from ssmlens.scan.operators.decay_scan import ScanOperands

# Entries [head state] of a program, and keys whose edges it checks together.
_TILE, _KEYS = 2048, 32


def edge_sums(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    edges: Bool[Tensor, "query token"],
    first: int,
) -> Float[Tensor, "batch query head headdim"] | None:
    """Σ_j M[i, j] x[j] over the selected edges (i, j) of some queries, in float32; not differentiable.

    None if the kernel cannot compute it: on a CPU, without Triton, for an operator other than a decay scan, in float64,
    or if a gradient is needed.

    Args:
        o: The operator.
        x: Its input.
        edges: The selected edges of the queries `first`, `first` + 1, …; keys after their query are ignored.
        first: The first of these queries.
    """
    if not (x.is_cuda and isinstance(o, DecayOperands) and x.dtype == torch.float32):
        return None
    tensors = [x, *o.arrays().values()]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return None
    return launch(o, x, edges, first) if is_available(x.device) else None


@functools.cache
def is_available(device: torch.device) -> bool:
    """Whether the kernel runs on this device: tried once, on two tokens; if not, a warning says why."""
    return trial.succeeds(
        lambda: _try(device), "edges are summed by torch; Triton's kernel fails here"
    )


def _try(device: torch.device) -> None:
    zeros = torch.zeros(1, 2, 1, 1, device=device)
    o = ScanOperands(delta=zeros[..., 0], A=-torch.ones(1, 1, device=device), B=zeros, C=zeros)
    launch(o, zeros, torch.ones(2, 2, dtype=torch.bool, device=device), 0).cpu()


def launch(
    o: DecayOperands,
    x: Float[Tensor, "batch token head headdim"],
    edges: Bool[Tensor, "query token"],
    first: int,
) -> Float[Tensor, "batch query head headdim"]:
    """Run the kernel: see `edge_sums`."""
    steps, rate = o.decay
    write, write_now = o.writes
    headdim = x.shape[3]
    out = x.new_empty(o.batch, len(edges), o.heads, headdim)
    if not out.numel():
        return out
    states = _power_of_two(o.states)
    at_once = _power_of_two(min(o.heads, max(1, _TILE // states))) if headdim == 1 else 1
    steps, *operands = _flat(steps, rate, o.B, o.C, write, write_now, x)
    with torch.cuda.device_of(x):
        _kernel()[len(edges), -(-o.heads // at_once), o.batch](
            edges.contiguous().view(torch.uint8), steps.cumsum(1, dtype=torch.double), *operands, out,
            first, o.tokens, o.heads, o.groups, o.states, headdim,
            H=at_once, N=states, P=_power_of_two(headdim), K=_KEYS, SCALAR=o.scalar_decay,
            num_warps=4 if headdim == 1 else 1,
        )  # fmt: skip
    return out


def _flat(*tensors: Tensor) -> list[Tensor]:
    """Each in float32 without gaps in memory; one that is given twice is copied once."""
    copies = {id(tensor): tensor for tensor in tensors}
    copies = {key: tensor.contiguous().float() for key, tensor in copies.items()}
    return [copies[id(tensor)] for tensor in tensors]


def _kernel() -> Any:
    """The kernel. Its module imports Triton."""
    return importlib.import_module("ssmlens.models.edge_sums_kernel").sum_row


def _power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(0, size - 1).bit_length()
