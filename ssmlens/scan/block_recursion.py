"""Sums over pairs of tokens with the decay between them, block by block.

The sums are Σ_k P[i,k] · exp(A_k (S_i − S_j)) · Q[j,k] for j < i, with S the running sum of Δ. For any boundary r
between j and i

    exp(A (S_i − S_j)) = exp(A (S_i − S_r)) · exp(A (S_r − S_j)),    both factors ≤ 1.

So the rectangle of queries after r and keys before r is one matrix product P·Qᵀ, where P includes the decay since r
and Q the decay up to r.

A square on the diagonal starts as leaves of four tokens, computed pair by pair. Then blocks double. Two neighbouring
blocks give one product; after it, the right block's decay is multiplied into the left block's Q, and the left block's
decay into the right block's P. When few blocks are left, each is multiplied with all keys before it in one product.
Nothing overflows, nothing is divided, and the work is that of half a matrix product.
"""

import dataclasses
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import pad

from ssmlens.scan.denormals import drop_tiny_, smallest_log_decay

# Tokens of a leaf. Inside it the decay is a product of exponentials. Across leaves it comes from float64 sums, so that
# rounding does not accumulate over a long sequence.
_LEAF = 4
# Blocks double while at least this many remain; so from this many to twice as many are left.
_BLOCKS = 4


@dataclasses.dataclass(frozen=True)
class DecayedPairs:
    """The terms read[i,n] · exp(rate[h,n] (S[i,h] − S[j,h])) · write[j,n] · weight[j,h], to sum over h and n.

    Attributes:
        steps: The steps; S is their running sum. A slab is a set of heads; slabs are computed side by side.
        rate: Log decay for each unit of S.
        read: Read vectors of the queries. The kinds (map and mask) share their decay.
        write: Write vectors of the keys.
        weight: Weight of each key's write to each head.
        running: S before every token and at the end, in float64. A constant may be added, since only its differences
            are used. None: it is summed when it is needed.
    """

    steps: Float[Tensor, "slab token head"]
    rate: Float[Tensor, "slab head A_state"]
    read: Float[Tensor, "kind #slab token A_state"]
    write: Float[Tensor, "kind #slab token A_state"]
    weight: Float[Tensor, "kind slab token head"]
    running: Float64[Tensor, "slab edge head"] | None = None

    def tokens(self, first: int, end: int) -> "DecayedPairs":
        """The pairs of tokens first ≤ i, j < end. Tokens past the last one are padding: no decay and no write."""
        here, missing = slice(first, end), max(0, end - self.steps.shape[1])
        padding, running = (0, 0, 0, missing), self.running
        if running is not None:
            last = running[:, -1:].expand(-1, missing, -1)
            running = torch.cat([running[:, first : end + 1], last], dim=1)
        return DecayedPairs(
            pad(self.steps[:, here], padding),
            self.rate,
            *(pad(x[:, :, here], padding) for x in (self.read, self.write, self.weight)),
            running=running,
        )

    def sums(self) -> Float64[Tensor, "slab edge head"]:
        """`running`, or its sum computed here if it is None."""
        if self.running is not None:
            return self.running
        return pad(self.steps.double().cumsum(1), (0, 0, 1, 0))

    def decay(
        self, sums: Float[Tensor, "slab #stretch head"]
    ) -> Float[Tensor, "slab stretch head A_state"]:
        """Decay over stretches of tokens, from the growth of S over each."""
        return (sums.to(self.steps.dtype).unsqueeze(-1) * self.rate.unsqueeze(1)).exp_()


def add_square(out: Float[Tensor, "kind #slab token token"], pairs: DecayedPairs) -> None:
    """Add the sums of all pairs j < i to `out`. If `out` has one slab, they are summed over slabs."""
    tokens = out.shape[2]
    square = _Square(pairs, tokens)
    blocks = out.new_zeros(*out.shape[:2], square.count, square.size, square.size)
    _on_diagonal(blocks, _LEAF).add_(_like(square.leaves, _on_diagonal(blocks, _LEAF)))
    for start, queries, keys in square.neighbours():
        products = queries @ keys.mT
        if start:
            block = out[:, :, start : start + products.shape[2], :start]
        else:
            size = products.shape[-1]
            block = _on_diagonal(blocks, 2 * size)[..., size:, :size]
        block += _like(products, block)
    for n, start in enumerate(range(0, tokens, square.size)):
        here = slice(start, min(start + square.size, tokens))
        length = here.stop - start
        out[:, :, here, here].add_(blocks[:, :, n, :length, :length])


def add_rectangle(
    out: Float[Tensor, "kind query key"],
    pairs: DecayedPairs,
    queries: tuple[int, int],
    keys: tuple[int, int],
) -> None:
    """Add the sums of queries[0] ≤ i < queries[1] and keys[0] ≤ j < keys[1] ≤ queries[0], over slabs too, to `out`."""
    sums, boundary = pairs.sums(), queries[0]
    before = pairs.tokens(*keys)
    since = sums[:, boundary + 1 : queries[1] + 1] - sums[:, boundary : boundary + 1]
    until = sums[:, boundary : boundary + 1] - sums[:, keys[0] + 1 : keys[1] + 1]
    P = (pairs.decay(since) * pairs.read[:, :, slice(*queries)].unsqueeze(3)).flatten(3)
    Q = pairs.decay(until) * before.write.unsqueeze(3)
    Q *= before.weight.unsqueeze(4)
    P, Q = (x.movedim(1, 2).flatten(2) for x in (P, Q.flatten(3)))  # kind token slab·head·A_state
    for kind in range(len(out)):
        out[kind].addmm_(P[kind], Q[kind].mT)


def energies(pairs: DecayedPairs) -> Float[Tensor, " slab"]:
    """For each slab, the sum over pairs j < i of the squares of what `add_square` would add.

    For blocks larger than head·state it uses ‖P Qᵀ‖² = ⟨PᵀP, QᵀQ⟩, whose matrices have only head·state rows.
    """
    square = _Square(pairs, pairs.steps.shape[1])
    total = square.leaves.square().sum((0, 2, 3, 4))
    for _, queries, keys in square.neighbours():
        if queries.shape[-2] < queries.shape[-1]:
            squares = (queries @ keys.mT).square()
        else:
            squares = (queries.mT @ queries) * (keys.mT @ keys)
        total = total + squares.transpose(0, 1).flatten(1).sum(1)
    return total


class _Square:
    """Pairs of tokens 0 ≤ j < i < tokens, as leaves and as products of neighbouring blocks.

    Padding tokens, which neither decay nor write, fill the last block.

    Attributes:
        size: Tokens of the largest blocks.
        count: Number of the largest blocks.
        leaves: The sums of the pairs in each leaf, [kind slab leaf query key]; 0 for j ≥ i.
    """

    def __init__(self, pairs: DecayedPairs, tokens: int):
        self.size = _LEAF
        while self.size * 2 * _BLOCKS <= tokens:
            self.size *= 2
        self.count = -(-tokens // self.size)
        self._tokens = tokens
        self._pairs = pairs.tokens(0, self.size * self.count)
        self.leaves, self._P, self._Q = _leaves(self._pairs)
        self._tokens_until_tiny = _tokens_until_tiny(pairs)

    def neighbours(
        self,
    ) -> Iterator[
        tuple[int, Float[Tensor, "kind slab *pair query k"], Float[Tensor, "kind slab *pair key k"]]
    ]:
        """The factors of the products queries·keysᵀ, which include the decay to and from the boundary.

        Yields (0, queries, keys) for all pairs of neighbours of a size, small sizes first. Then (start, queries, keys)
        for the largest block that starts at `start`, with all keys before it. The next step overwrites both tensors.
        """
        P, Q, sums = self._P, self._Q, self._pairs.sums()
        saved = P.requires_grad or Q.requires_grad  # autograd has saved both for the backward pass
        size = _LEAF
        across = self._decays(sums, size)
        if self._tokens_until_tiny < size:
            drop_tiny_(P)
            drop_tiny_(Q)
        while size < self.size:
            yield 0, *_halves(P, Q, size)
            if saved:
                P, Q = P.clone(), Q.clone()
            queries, keys = _halves(P, Q, size)
            left, right = across.unflatten(1, (-1, 2)).unsqueeze(3).unbind(2)
            queries *= left
            keys *= right
            size *= 2
            across = self._decays(sums, size)
            if self._tokens_until_tiny < size:
                drop_tiny_(queries)
                drop_tiny_(keys)
        for n in range(1, self.count):
            start = n * size
            if n > 1:
                Q = Q.clone() if saved else Q
                Q[:, :, : start - size] *= across[:, n - 1 : n]
                if self._tokens_until_tiny < start:
                    drop_tiny_(Q[:, :, : start - size])
            yield start, P[:, :, start : min(start + size, self._tokens)], Q[:, :, :start]

    def _decays(
        self, sums: Float[Tensor, "slab edge head"], size: int
    ) -> Float[Tensor, "slab block k"]:
        """Decay across every block of a size."""
        return self._pairs.decay(sums[:, ::size].diff(dim=1)).flatten(2)


def _tokens_until_tiny(pairs: DecayedPairs) -> float:
    """The fewest tokens after which a product with a decay may be denormal. On a GPU, which they do not slow: ∞."""
    if pairs.rate.is_cuda or not pairs.steps.numel():
        return math.inf
    most = float(pairs.steps.detach().amax()) * float(pairs.rate.detach().amin())
    return smallest_log_decay(pairs.rate.dtype) / most if most < 0 else math.inf


def _halves(
    P: Float[Tensor, "kind slab token k"], Q: Float[Tensor, "kind slab token k"], size: int
) -> tuple[Float[Tensor, "kind slab pair query k"], Float[Tensor, "kind slab pair key k"]]:
    """The queries of every second block and the keys of the block before it."""
    return P.unflatten(2, (-1, 2, size))[:, :, :, 1], Q.unflatten(2, (-1, 2, size))[:, :, :, 0]


def _leaves(
    pairs: DecayedPairs,
) -> tuple[
    Float[Tensor, "kind slab leaf query key"],
    Float[Tensor, "kind slab token k"],
    Float[Tensor, "kind slab token k"],
]:
    """The sums in leaves, P with the decay since its leaf's start, and Q with the decay until its leaf's end."""
    step = _by_place(pairs.decay(pairs.steps), 1)
    read, write, weight = (_by_place(x, 2) for x in (pairs.read, pairs.write, pairs.weight))
    kinds, slabs, leaves, heads = weight[0].shape
    inner = (heads, pairs.rate.shape[2])
    sums = pairs.weight.new_zeros(kinds, slabs, leaves, _LEAF, _LEAF)
    P, Q = (pairs.weight.new_empty(kinds, slabs, leaves, _LEAF, *inner) for _ in range(2))
    since = None
    for i in range(_LEAF):
        since = step[i] if since is None else since * step[i]
        P[:, :, :, i] = since * read[i].unsqueeze(3)
    for j in range(_LEAF):
        written = weight[j].unsqueeze(4) * write[j].unsqueeze(3)
        between = None
        for i in range(j + 1, _LEAF):
            between = step[i] if between is None else between * step[i]
            # Sums over heads first, since they share read and write vectors.
            summed = weight[j].permute(1, 2, 0, 3) @ between  # slab leaf kind A_state
            sums[:, :, :, i, j] = (summed.permute(2, 0, 1, 3) * (read[i] * write[j])).sum(-1)
        Q[:, :, :, j] = written if between is None else between * written
    P, Q = (x.flatten(4).flatten(2, 3) for x in (P, Q))
    return sums, P, Q


def _by_place(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """The first tokens of all leaves, the second tokens of all leaves, ..."""
    return x.unflatten(dim, (-1, _LEAF)).unbind(dim + 1)


def _on_diagonal(
    blocks: Float[Tensor, "kind slab block token token"], size: int
) -> Float[Tensor, "kind slab block part query key"]:
    """The squares of this size on the diagonal of each block."""
    cut = blocks.unflatten(4, (-1, size)).unflatten(3, (-1, size))
    return cut.diagonal(dim1=3, dim2=5).movedim(-1, 3)


def _like(sums: Tensor, block: Tensor) -> Tensor:
    """The sums of slabs in the shape of `block`, to which they are added: summed over slabs if it has one."""
    summed = sums.sum_to_size(*block.shape[:2], *sums.shape[2:])
    return summed.view(block.shape)
