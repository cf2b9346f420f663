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

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# Blocks up to this size get their decay as a product of exponentials already taken; longer ones from Δ's sums anew,
# so that rounding does not pile up over a long sequence.
_PRODUCT_TOKENS = 8

Factors = tuple[Float[Tensor, "map token inner"], Float[Tensor, "map token inner"]]


def add_products(
    outs: Sequence[Float[Tensor, "map token token"]],
    factors: Sequence[Factors],
    step: Float[Tensor, "map token inner"],
    delta: Float[Tensor, "map token head"],
    A: Float[Tensor, "map head A_state"],
) -> None:
    """Add Σ_inner P[i] Q[j] · (decay between them) below the diagonal of each `out`; inner is head·A_state.

    Args:
        outs: What is added to, one for each pair of factors.
        factors: (P, Q): what is read at token i times `step`; what is written at token j. Both are overwritten.
        step: Ā = exp(Δ A), the decay of each token.
        delta: Δ.
        A: Continuous-time decay.
    """
    for size, merged in _levels(factors, step, delta, A):
        for out, (P, Q) in zip(outs, merged, strict=True):
            products = zip(_blocks(out, size), _neighbours(P, Q, size), strict=True)
            for block, (queries, keys) in products:
                block += queries @ keys.mT


def energies(
    factors: Factors,
    step: Float[Tensor, "map token inner"],
    delta: Float[Tensor, "map token head"],
    A: Float[Tensor, "map head A_state"],
) -> Float[Tensor, " map"]:
    """Sum of squares below the diagonal of what `add_products` would add, without making it.

    ‖P Qᵀ‖² = ⟨PᵀP, QᵀQ⟩, and PᵀP is only inner × inner.
    """
    total = step.new_zeros(len(step))
    for size, ((P, Q),) in _levels([factors], step, delta, A):
        for queries, keys in _neighbours(P, Q, size):
            grams = (queries.mT @ queries) * (keys.mT @ keys)
            total = total + grams.flatten(1).sum(1)
    return total


def _levels(
    factors: Sequence[Factors],
    step: Float[Tensor, "map token inner"],
    delta: Float[Tensor, "map token head"],
    A: Float[Tensor, "map head A_state"],
) -> Iterator[tuple[int, list[Factors]]]:
    """Block size 1, 2, 4, ... and the factors referred to blocks of that size."""
    tokens = step.shape[1]
    # S before each token, and at the end.
    before = torch.nn.functional.pad(delta.double().cumsum(1), (0, 0, 1, 0))
    factors = list(factors)
    decay = step  # across each block of `size` tokens
    size = 1
    while size < tokens:
        yield size, factors
        if 2 * size >= tokens:
            return
        factors = [_merge_pairs(P, Q, decay, size) for P, Q in factors]
        size *= 2
        if size <= _PRODUCT_TOKENS:
            last = decay[:, -1:] if decay.shape[1] % 2 else decay[:, :0]
            decay = torch.cat([decay[:, :-1:2] * decay[:, 1::2], last], dim=1)
        else:
            edges = torch.arange(0, tokens + size, size, device=step.device).clamp(max=tokens)
            across = (before[:, edges[1:]] - before[:, edges[:-1]]).to(step.dtype)
            decay = torch.exp(across.unsqueeze(-1) * A.unsqueeze(1)).flatten(2)


def _neighbours(
    P: Float[Tensor, "map token inner"], Q: Float[Tensor, "map token inner"], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The queries of every second block and the keys of the block before it: all whole pairs at once, then the rest.

    Yields pairs of [map pair token inner].
    """
    pairs, rest = divmod(P.shape[1], 2 * size)
    if pairs:
        whole = slice(0, pairs * 2 * size)
        queries, keys = (x[:, whole].unflatten(1, (pairs, 2, size)) for x in (P, Q))
        yield queries[:, :, 1], keys[:, :, 0]
    if rest > size:
        start = P.shape[1] - rest
        yield P[:, None, start + size :], Q[:, None, start : start + size]


def _blocks(out: Float[Tensor, "map token token"], size: int) -> Iterator[Tensor]:
    """Where in `out` the products of `_neighbours` belong, in the same order: views [map pair query key]."""
    pairs, rest = divmod(out.shape[1], 2 * size)
    if pairs:
        whole, shape = slice(0, pairs * 2 * size), (pairs, 2 * size)
        square = out[:, whole, whole].unflatten(1, shape).unflatten(3, shape)
        yield square.diagonal(dim1=1, dim2=3).movedim(-1, 1)[:, :, size:, :size]
    if rest > size:
        start = out.shape[1] - rest
        yield out[:, None, start + size :, start : start + size]


def _merge_pairs(
    P: Float[Tensor, "map token inner"],
    Q: Float[Tensor, "map token inner"],
    decay: Float[Tensor, "map block inner"],
    size: int,
) -> tuple[Float[Tensor, "map token inner"], Float[Tensor, "map token inner"]]:
    """Make pairs of blocks of `size` tokens one: P now refers to the pair's start, Q to its end."""
    if P.requires_grad or Q.requires_grad:  # the products have saved both
        P, Q = P.clone(), Q.clone()
    pairs, rest = divmod(P.shape[1], 2 * size)
    if pairs:
        whole, blocks = slice(0, pairs * 2 * size), slice(0, 2 * pairs)
        left, right = decay[:, blocks].unflatten(1, (pairs, 2, 1)).unbind(2)
        P[:, whole].unflatten(1, (pairs, 2, size))[:, :, 1] *= left
        Q[:, whole].unflatten(1, (pairs, 2, size))[:, :, 0] *= right
    if rest > size:
        start = pairs * 2 * size
        P[:, start + size :] *= decay[:, -2:-1]
        Q[:, start : start + size] *= decay[:, -1:]
    return P, Q
