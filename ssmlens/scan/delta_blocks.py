"""The matrices of a delta rule, block by block: what each block of tokens reads, writes and passes on.

A block of tokens has readers R, carried back to its start; writers W, carried on to its end; and a transition T, which
takes a state (a row s of S) across it, s ← s T. A reader is a query, or the vector that an erase reads with. Both read
the same writers. The columns of M have the factor β_j. For two neighbouring blocks, left and right,

    the rectangle right × left = R_right W_leftᵀ
    R = [R_left; R_right T_leftᵀ],    W = [W_left T_right; W_right],    T = T_left T_right.

So squares double, and each doubling is one matrix product for all heads. A leaf of 128 tokens uses the WY form (Yang et
al. 2024, arXiv 2406.06484). Every decay is relative to a boundary of its block, so it is at most 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import pad

from ssmlens.scan.denormals import drop_tiny
from ssmlens.scan.operator import Span

_LEAF = 128
# Rows of the triangular blocks that are inverted by substitution.
_SUBSTITUTED = 32
FORGOTTEN = -800.0
"""A log decay whose decay is 0, in float64 too. Lower ones are raised to it: −∞ would make differences of sums NaN."""


@dataclass(frozen=True)
class Operands:
    """A delta rule's operands for some heads of one sequence. Every head has its own q and k."""

    q: Float[Tensor, "head token state"]
    k: Float[Tensor, "head token state"]
    beta: Float[Tensor, "head token"]
    log_decay: Float[Tensor, "head token #state"]

    def between(self, span: Span) -> "Operands":
        """Only these tokens."""
        here = slice(*span)
        return Operands(
            self.q[:, here], self.k[:, here], self.beta[:, here], self.log_decay[:, here]
        )


@dataclass(frozen=True)
class Blocks:
    """Consecutive blocks of one size. Padding tokens neither decay nor write nor read.

    Attributes:
        readers: R of queries and of erases.
        writers: W, without β.
        across: T.
    """

    readers: Float[Tensor, "head block reader time state"]
    writers: Float[Tensor, "head block time state"]
    across: Float[Tensor, "head block state state"]

    def double(self) -> "Blocks":
        """Blocks of twice the size."""
        odd = self.writers.shape[1] % 2
        readers = pad(self.readers, (0, 0, 0, 0, 0, 0, 0, odd)).unflatten(1, (-1, 2))
        writers = pad(self.writers, (0, 0, 0, 0, 0, odd)).unflatten(1, (-1, 2))
        across = self.across
        if odd:
            one = torch.eye(across.shape[-1], dtype=across.dtype, device=across.device)
            across = torch.cat([across, one.expand(len(across), 1, -1, -1)], dim=1)
        left, right = across.unflatten(1, (-1, 2)).unbind(2)
        back = drop_tiny(readers[:, :, 1].flatten(2, 3) @ left.mT).view_as(readers[:, :, 1])
        on = drop_tiny(writers[:, :, 0] @ right)
        return Blocks(
            readers=torch.cat([readers[:, :, 0], back], dim=3),
            writers=torch.cat([on, writers[:, :, 1]], dim=2),
            across=drop_tiny(left @ right),
        )

    def merged(self) -> "Blocks":
        """One block of all tokens."""
        blocks = self
        while blocks.writers.shape[1] > 1:
            blocks = blocks.double()
        return blocks


@dataclass(frozen=True)
class Leaves:
    """Blocks of at most 128 tokens, and their squares on the diagonal.

    Attributes:
        blocks: Their readers, writers and transitions.
        squares: Their squares of M without its β_j, and of the erase.
    """

    blocks: Blocks
    squares: Float[Tensor, "head block reader query key"]


def leaves(o: Operands) -> Leaves:
    """The leaves of all tokens of `o`."""
    tokens = o.q.shape[1]
    size = min(_LEAF, 1 << max(0, tokens - 1).bit_length())
    q, k, beta, steps = (_by_block(x, size) for x in (o.q, o.k, o.beta.unsqueeze(-1), o.log_decay))
    sums = steps.clamp(min=FORGOTTEN).double().cumsum(-2)
    since, until = (drop_tiny(x.to(q.dtype).exp()) for x in (sums, sums[..., -1:, :] - sums))
    scores, overlaps = _decayed_products(q, k, sums)
    inverse = _inverse(beta * overlaps)
    own = drop_tiny(scores @ inverse)
    k_since, k_until = since * k, until * k
    weighted = beta * k_since
    readers = torch.stack([since * q - own @ weighted, -(inverse @ weighted)], dim=2)
    readers = drop_tiny(readers)
    one = torch.eye(size, dtype=q.dtype, device=q.device)
    blocks = Blocks(
        readers=readers,
        writers=drop_tiny(inverse.mT @ k_until),
        across=drop_tiny(readers[:, :, 1].mT @ k_until + _diagonal(since[..., -1, :], k.shape[-1])),
    )
    return Leaves(blocks, torch.stack([own, inverse - one], dim=2))


def _by_block(x: Float[Tensor, "head token _"], size: int) -> Float[Tensor, "head block time _"]:
    return pad(x, (0, 0, 0, -x.shape[1] % size)).unflatten(1, (-1, size))


def _diagonal(
    x: Float[Tensor, "head block #state"], states: int
) -> Float[Tensor, "head block state state"]:
    return torch.diag_embed(x.expand(*x.shape[:-1], states))


def _decayed_products(
    q: Float[Tensor, "head block time state"],
    k: Float[Tensor, "head block time state"],
    sums: Float64[Tensor, "head block time #state"],
) -> tuple[Float[Tensor, "head block query key"], Float[Tensor, "head block query key"]]:
    """q_i·k_j for j ≤ i and k_i·k_j for j < i, each with the decay between the tokens; 0 elsewhere."""
    size = q.shape[-2]
    if sums.shape[-1] == 1:
        later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        decay = drop_tiny((sums - sums.mT).to(q.dtype).masked_fill(later, -torch.inf).exp())
        return (q @ k.mT) * decay, ((k @ k.mT) * decay).tril(-1)
    out = q.new_zeros(2, *q.shape[:-1], size)
    side = 1
    while side < size:
        S, queries, keys, earlier = (x.unflatten(-2, (-1, 2, side)) for x in (sums, q, k, k))
        middle = S[..., :1, -1:, :]
        since = drop_tiny((S[..., 1:, :, :] - middle).to(q.dtype).exp()).squeeze(-3)
        until = drop_tiny((middle - S[..., :1, :, :]).to(q.dtype).exp()).squeeze(-3)
        earlier = (until * earlier[..., 0, :, :]).mT
        for n, later in enumerate((queries, keys)):
            products = (since * later[..., 1, :, :]) @ earlier
            _on_diagonal(out[n], 2 * side)[..., side:, :side].copy_(products)
        side *= 2
    own = torch.diag_embed((q * k).sum(-1))
    return out[0] + own, out[1]


def _inverse(
    below: Float[Tensor, "head block query key"],
) -> Float[Tensor, "head block query key"]:
    """(I + below)⁻¹ for strictly lower triangular matrices: small blocks by substitution, then blocks double."""
    size = min(_SUBSTITUTED, below.shape[-1])
    small = _on_diagonal(below, size)
    one = torch.eye(size, dtype=below.dtype, device=below.device)
    inverse = torch.linalg.solve_triangular(
        small, one.expand_as(small), upper=False, unitriangular=True
    )
    while size < below.shape[-1]:
        left, right = inverse.unflatten(-3, (-1, 2)).unbind(-3)
        corner = drop_tiny(right @ _on_diagonal(below, 2 * size)[..., size:, :size])
        corner = drop_tiny(-corner @ left)
        top = torch.cat([left, torch.zeros_like(left)], dim=-1)
        inverse = torch.cat([top, torch.cat([corner, right], dim=-1)], dim=-2)
        size *= 2
    return inverse.squeeze(-3)


def _on_diagonal(
    x: Float[Tensor, "head block time time"], size: int
) -> Float[Tensor, "head block part query key"]:
    """The squares of this size on the diagonal of each block."""
    cut = x.unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
    return cut.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
