"""Sums over the heads of a layer whose states have their own decay (Mamba-1), on a GPU, by `decay_kernels`.

torch would write the decays of all tokens, heads and states to memory, read them again to multiply them, and launch
hundreds of kernels. Here one kernel makes them in registers. A tile of queries and keys is a product for every slice of
heads and every state, as in `block_recursion`; on the diagonal tiles halve, down to leaves, whose pairs have their own
exponentials. Products run on tensor cores, with numbers cut in two: they are as accurate as float32's own.
"""

import dataclasses
import functools
import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from ssmlens.scan import trial
from ssmlens.scan.operands import DecayOperands
from ssmlens.scan.operator import Span

# Tokens of a tile, how often it halves down to a leaf, heads of a slice, heads of a leaf's slice, warps. Others were
# slower on an H200, by a script that is not in the repository.
_TILE, _LEVELS, _SLICE, _LEAF_SLICE, _WARPS = 64, 2, 32, 32, 4
# Programs that keep a GPU busy. Where there are fewer tiles, each is shared out among several programs, by heads.
_PROGRAMS = 1320
# Tokens of a block in `energies`: inside it every pair has its own exponentials.
_BLOCK = 64
# Entries that a program of `sum_shares` writes; tokens and heads that one of `running_sums` adds up at a time.
_SUMMED = 256
_RUN_TOKENS, _RUN_HEADS = 64, 16


def fits(o: DecayOperands) -> bool:
    """Whether the kernels compute sums over these operands.

    On a CUDA GPU with Triton, in float32, if states have their own decay and no gradient is needed.
    """
    if not (o.delta.is_cuda and o.delta.dtype == torch.float32) or o.scalar_decay:
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in o.arrays().values()):
        return False
    return is_available(o.delta.device)


@functools.cache
def is_available(device: torch.device) -> bool:
    """Whether the kernels run on this device: tried once; if not, a warning says why."""
    return trial.succeeds(
        lambda: _try(device), "maps of Mamba-1 are slower here: Triton's kernels fail"
    )


def put_head_sums(
    out: Float[Tensor, "kind query key"],
    kinds: Sequence[str],
    o: DecayOperands,
    queries: Span,
    keys: Span,
) -> None:
    """Write sums over heads to `out`, for all pairs j < i of a rectangle of queries and keys.

        "map":   Σ_h Σ_n C[i,n] exp(A[h,n] (S[i,h] − S[j,h])) B[j,n] write[j,h]
        "mask":  Σ_h Σ_n exp(A[h,n] (S[i,h] − S[j,h]))

    S is the running sum of the steps: the decay is that of tokens j+1 … i. Not differentiable.

    Args:
        out: A matrix for each of `kinds`, without gaps between the keys of a query. Entries j ≥ i are left as they are.
        kinds: "map", "mask" or both, in any order.
        o: Operands of one sequence, for which `fits` is true.
        queries: The first token and the token after the last.
        keys: The same for keys: tokens before the first query, or the queries themselves.
    """
    if out.numel() and o.heads and o.states:
        _put(out, kinds, _Read.of(o), queries, keys)


def energies(o: DecayOperands) -> Float[Tensor, " head"]:
    """Σ M[h,i,j]² over all pairs j < i, for every head.

    Args:
        o: Operands of one sequence, for which `fits` is true.
    """
    if not o.delta.numel() or not o.states:
        return o.delta.new_zeros(o.heads)
    blocks, size = -(-o.tokens // _BLOCK), 16 if o.states <= 16 else 32
    pairs = (-(-o.states // size)) ** 2
    products = o.delta.new_empty(2, o.heads, blocks, pairs, size, size)
    out = o.delta.new_empty(o.heads, blocks + pairs)
    read, kernels = _Read.of(o), _kernels("energy_kernels")
    with torch.cuda.device_of(out):
        kernels.energies_within[blocks, o.heads, pairs](
            *read.tensors, out, products, products[1], o.tokens, *read.sizes, SIZE=_BLOCK, K=size
        )
        kernels.energies_between[o.heads, pairs](
            read.running, read.rate, products, products[1], out,
            o.tokens, o.heads, o.states, blocks, SIZE=_BLOCK, K=size, num_warps=1,
        )  # fmt: skip
    return out.sum(1)


@dataclasses.dataclass(frozen=True)
class _Read:
    """What the kernels read, without gaps in memory.

    Attributes:
        running: The sum of the steps before every token and at the end.
        rate: Log decay for each unit of it, in powers of two.
        B: Write vectors.
        C: Read vectors.
        weight: Weight of each token's write for later tokens.
    """

    running: Float64[Tensor, "edge head"]
    rate: Float32[Tensor, "state head"]
    B: Float32[Tensor, "token group state"]
    C: Float32[Tensor, "token group state"]
    weight: Float32[Tensor, "token head"]

    @classmethod
    def of(cls, o: DecayOperands) -> "_Read":
        """From operands of one sequence."""
        steps, rate = o.decay
        running = _running(steps[0].contiguous())
        powers = (rate * math.log2(math.e)).mT
        return cls(running, *(x.contiguous() for x in (powers, o.B[0], o.C[0], o.writes[0][0])))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.running, self.rate, self.B, self.C, self.weight

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Heads, groups, states."""
        return self.weight.shape[1], self.B.shape[1], self.B.shape[2]


def _running(steps: Float32[Tensor, "token head"]) -> Float64[Tensor, "edge head"]:
    """The sum of the steps before every token and at the end."""
    tokens, heads = steps.shape
    out = torch.empty(tokens + 1, heads, dtype=torch.double, device=steps.device)
    with torch.cuda.device_of(out):
        _kernels().running_sums[(-(-heads // _RUN_HEADS),)](
            steps, out, tokens, heads, TOKENS=_RUN_TOKENS, HEADS=_RUN_HEADS
        )
    return out


def _put(
    out: Float[Tensor, "kind query key"],
    kinds: Sequence[str],
    read: _Read,
    queries: Span,
    keys: Span,
) -> None:
    """Run the kernels: see `put_head_sums`."""
    rows, columns = out.shape[1:]
    square = queries == keys
    heads, groups, _ = read.sizes
    tiles, programs = _count(rows, columns, square)
    shares = max(1, min(groups * -(-(heads // groups) // _SLICE), _PROGRAMS // max(1, tiles)))
    parts = out.unsqueeze(1)
    if shares > 1:
        parts = out.new_empty(len(kinds), shares, rows, columns)
    of_kind = dict(zip(kinds, parts, strict=True))
    of_map, of_mask = (of_kind.get(kind, parts) for kind in ("map", "mask"))
    kernels = _kernels()
    run = kernels.square_sums if square else kernels.rectangle_sums
    with torch.cuda.device_of(out):
        run[programs, shares](
            *read.tensors, of_map, of_mask, queries[0], keys[0], queries[1], keys[1], *read.sizes,
            parts.stride(1), parts.stride(2), SIZE=_TILE, K=_SLICE, LEVELS=_LEVELS, LEAF_K=_LEAF_SLICE,
            MAP="map" in kinds, MASK="mask" in kinds, num_warps=_WARPS, num_stages=1,
        )  # fmt: skip
        if shares > 1:
            kernels.sum_shares[rows, -(-columns // _SUMMED), len(kinds)](
                parts, out, out.stride(0), out.stride(1), rows, columns, shares,
                SQUARE=square, SIZE=_SUMMED,
            )  # fmt: skip


def _count(rows: int, columns: int, square: bool) -> tuple[int, int]:
    """Tiles of SIZE that have a pair j < i, and programs for each share of the heads: see the kernels."""
    count, others = -(-rows // _TILE), -(-columns // _TILE)
    if not square:
        return count * others, count * others
    halves = (_TILE >> level for level in range(1, _LEVELS + 1))
    smaller = sum(-(-rows // half) // 2 for half in halves) - (-rows // (_TILE >> _LEVELS))
    return count * (count - 1) // 2, count * count + smaller


def _try(device: torch.device) -> None:
    """Run the kernel of a square, which has the code of the others. Raises any error of Triton or the GPU."""
    ones = torch.ones(3, 16, device=device)
    vectors = torch.ones(2, 1, 16, device=device)
    rate = -torch.ones(16, 16, device=device)
    out = torch.zeros(2, 2, 2, device=device)
    read = _Read(ones.double(), rate, vectors, vectors, ones[:2])
    _put(out, ("map", "mask"), read, (0, 2), (0, 2))
    out.cpu()


def _kernels(name: str = "decay_kernels") -> Any:
    """One of the kernels' modules, which import Triton."""
    return importlib.import_module(f"ssmlens.scan.{name}")
