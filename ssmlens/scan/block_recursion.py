"""Sums over pairs of tokens with the decay between them, block by block.

What is wanted is Σ_k P[i,k] · exp(A_k (S_i − S_j)) · Q[j,k] for j < i, with S the running sum of Δ. For any boundary
r between j and i

    exp(A (S_i − S_j)) = exp(A (S_i − S_r)) · exp(A (S_r − S_j)),    both factors ≤ 1,

so the block of queries right of r and keys left of r is ONE matrix product P·Qᵀ, once P holds its decay since r and
Q its decay up to r. The recursion starts with single tokens and doubles: two neighbouring blocks give one product,
then the decay across the right block is folded into the left block's Q and the decay across the left block into the
right block's P. Each entry meets log2(T) factors; nothing overflows, nothing is divided, and the work is that of half
a matrix product.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

# Blocks up to this size get their decay as a product of exponentials already taken; longer ones from Δ's sums anew,
# so that rounding does not pile up over a long sequence.
_PRODUCT_TOKENS = 8


class BlocksBelow:
    """The part of `out` below the diagonal, cut into the blocks that `add_products` fills.

    Blocks are views [map pair query key]; of each size all whole pairs at once, then the shorter last one, if any.
    """

    def __init__(self, out: Float[Tensor, "map token token"]):
        self._out = out
        self._views = {}
        size = 1
        while size < out.shape[1]:
            self._views[size] = list(_cut(out, size))
            size *= 2

    def __call__(self, size: int, place: int) -> Float[Tensor, "map pair query key"]:
        """The blocks of a size, in the order of `_neighbours`."""
        if self._out.requires_grad:  # autograd wants its views made after the last change
            return list(_cut(self._out, size))[place]
        return self._views[size][place]


def _cut(out: Float[Tensor, "map token token"], size: int) -> Iterator[Tensor]:
    pairs, rest = divmod(out.shape[1], 2 * size)
    if pairs:
        whole, shape = slice(0, pairs * 2 * size), (pairs, 2 * size)
        square = out[:, whole, whole].unflatten(1, shape).unflatten(3, shape)
        yield square.diagonal(dim1=1, dim2=3).movedim(-1, 1)[:, :, size:, :size]
    if rest > size:
        start = out.shape[1] - rest
        yield out[:, None, start + size :, start : start + size]


def add_products(
    out: BlocksBelow,
    P: Float[Tensor, "map token inner"],
    Q: Float[Tensor, "map token inner"],
    step: Float[Tensor, "#map token inner"],
    delta: Float[Tensor, "#map token head"],
    A: Float[Tensor, "#map head A_state"],
) -> None:
    """Add Σ_inner P[i] Q[j] · (decay between them) below the diagonal of `out`; inner is head·A_state.

    Args:
        out: What is added to.
        P: What is read at token i, times `step`. Overwritten.
        Q: What is written at token j. Overwritten.
        step: Ā = exp(Δ A), the decay of each token.
        delta: Δ.
        A: Continuous-time decay.
    """
    for size, place, queries, keys in _neighbours_of_all_sizes(P, Q, step, delta, A):
        block = out(size, place)
        block += queries @ keys.mT


def energies(
    P: Float[Tensor, "map token inner"],
    Q: Float[Tensor, "map token inner"],
    step: Float[Tensor, "#map token inner"],
    delta: Float[Tensor, "#map token head"],
    A: Float[Tensor, "#map head A_state"],
) -> Float[Tensor, " map"]:
    """Sum of squares below the diagonal of what `add_products` would add, without making it.

    ‖P Qᵀ‖² = ⟨PᵀP, QᵀQ⟩, and PᵀP is only inner × inner.
    """
    total = P.new_zeros(len(P))
    for *_, queries, keys in _neighbours_of_all_sizes(P, Q, step, delta, A):
        grams = (queries.mT @ queries) * (keys.mT @ keys)
        total = total + grams.flatten(1).sum(1)
    return total


def _neighbours_of_all_sizes(
    P: Float[Tensor, "map token inner"],
    Q: Float[Tensor, "map token inner"],
    step: Float[Tensor, "#map token inner"],
    delta: Float[Tensor, "#map token head"],
    A: Float[Tensor, "#map head A_state"],
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Every pair of neighbouring blocks, small ones first, each with its decay up to the boundary folded in.

    Yields (block size, place in `BlocksBelow`, queries, keys), both [map pair token inner]. They are overwritten when
    the next ones are asked for.
    """
    keeps = P.requires_grad or Q.requires_grad  # the products have saved both
    for size, decay in _decays(step, delta, A):
        neighbours = list(_neighbours(P, Q, size))
        for place, (queries, keys) in enumerate(neighbours):
            yield size, place, queries, keys
        if keeps:
            P, Q = P.clone(), Q.clone()
            neighbours = _neighbours(P, Q, size)
        across = _decay_of_pairs(decay, P.shape[1], size)
        for (queries, keys), (left, right) in zip(neighbours, across, strict=True):
            queries *= left
            keys *= right


def _decays(
    step: Float[Tensor, "#map token inner"],
    delta: Float[Tensor, "#map token head"],
    A: Float[Tensor, "#map head A_state"],
) -> Iterator[tuple[int, Tensor]]:
    """Block sizes 1, 2, 4, ... with the decay across each block of that size, [map block inner]."""
    tokens = step.shape[1]
    # S before each token, and at the end.
    before = torch.nn.functional.pad(delta.double().cumsum(1), (0, 0, 1, 0))
    decay, size = step, 1
    while size < tokens:
        yield size, decay
        size *= 2
        if size <= _PRODUCT_TOKENS:
            last = decay[:, -1:] if decay.shape[1] % 2 else decay[:, :0]
            decay = torch.cat([decay[:, :-1:2] * decay[:, 1::2], last], dim=1)
        else:
            edges = torch.arange(0, tokens + size, size, device=step.device).clamp(max=tokens)
            across = before[:, edges].diff(dim=1).to(step.dtype)
            decay = (across.unsqueeze(-1) * A.unsqueeze(1)).exp_().flatten(2)


def _neighbours(
    P: Float[Tensor, "map token inner"], Q: Float[Tensor, "map token inner"], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The queries of every second block and the keys of the block before it, in the order of `BlocksBelow`."""
    pairs, rest = divmod(P.shape[1], 2 * size)
    if pairs:
        whole, shape = slice(0, pairs * 2 * size), (pairs, 2, size)
        yield P[:, whole].unflatten(1, shape)[:, :, 1], Q[:, whole].unflatten(1, shape)[:, :, 0]
    if rest > size:
        start = P.shape[1] - rest
        yield P[:, None, start + size :], Q[:, None, start : start + size]


def _decay_of_pairs(
    decay: Float[Tensor, "#map block inner"], tokens: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each of `_neighbours` the decay across its left block and across its right block, [map pair 1 inner]."""
    pairs, rest = divmod(tokens, 2 * size)
    if pairs:
        yield decay[:, 0 : 2 * pairs : 2].unsqueeze(2), decay[:, 1 : 2 * pairs : 2].unsqueeze(2)
    if rest > size:
        yield decay[:, -2:-1].unsqueeze(2), decay[:, -1:].unsqueeze(2)
