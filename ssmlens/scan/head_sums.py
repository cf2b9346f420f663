"""Sums of M and of the decay over a layer's heads, on a rectangle of queries and keys. Attention maps are their means.

The memory is that of the rectangle and of one batch of slabs of heads; it does not grow with the number of heads.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ssmlens.scan import decay_sums
from ssmlens.scan.block_recursion import DecayedPairs, add_rectangle, add_square
from ssmlens.scan.operands import DecayOperands
from ssmlens.scan.operator import Span
from ssmlens.scan.spans import causal_parts, place

# Inner dimension (heads·states) of one product. On a CPU, P and Q of 1024 tokens then stay in the cores' caches.
_INNER = {"cpu": 1024, "cuda": 4096}
# The most entries of P (and of Q) in memory, unless that inner dimension needs more. A GPU needs more work at a time:
# it computes several slabs of heads side by side.
_ENTRIES = {"cpu": 2**18, "cuda": 2**25}


def mean_over_heads(
    operands: DecayOperands, kinds: Sequence[str], queries: Span, keys: Span
) -> Float[Tensor, "batch kind query key"]:
    """The mean of M over heads ("map") and of the decay over heads and states ("mask"), on a rectangle."""
    o = operands.bare()
    out = o.delta.new_zeros(o.batch, len(kinds), queries[1] - queries[0], keys[1] - keys[0])
    for rows, columns in causal_parts(queries, keys):
        i, j = place(rows, columns, queries, keys)
        for sequence in range(o.batch):
            _add_head_sums(out[sequence, :, i, j], kinds, o.sequence(sequence), rows, columns)
    terms = {"map": o.heads, "mask": o.heads * o.decay[1].shape[1]}
    for n, kind in enumerate(kinds):
        out[:, n] /= terms[kind]
    return out


def _add_head_sums(
    out: Float[Tensor, "kind query key"],
    kinds: Sequence[str],
    sequence: DecayOperands,
    queries: Span,
    keys: Span,
) -> None:
    """Add the sum over heads of M ("map") or the sum over heads and states of the decay ("mask") to `out`.

    If every state has its own decay (Mamba-1), heads and states are inner dimensions of the products, which include C
    and B; on a GPU `decay_sums` computes them. If a head has one decay (Mamba-2), only heads are, and the result is
    multiplied with C Bᵀ of their group. If also each head is a group (Mamba-3), the products include C and B.

    Args:
        out: Zeros, one map for each of `kinds`. The sums are added to them.
        kinds: "map", "mask" or both.
        sequence: Operands of one sequence, from `Operator.bare`.
        queries: The first token and the token after the last.
        keys: The same for keys: tokens before the first query, or the queries themselves.
    """
    o = sequence.between(keys[0], queries[1])
    rows, columns = (queries[0] - keys[0], o.tokens), (0, keys[1] - keys[0])
    if decay_sums.fits(o):
        decay_sums.put_head_sums(out, kinds, o, rows, columns)
    else:
        _Part(o, rows, columns).add(out, kinds)
    if queries == keys:
        _, now = o.writes
        own = (o.B[0] * o.C[0]).sum(-1) * now[0].unflatten(1, (o.groups, -1)).sum(-1)
        here = {"map": own.sum(-1), "mask": o.heads * o.decay[1].shape[1]}
        for n, kind in enumerate(kinds):
            out[n].diagonal().add_(here[kind])


class _Part:
    """The pairs of one rectangle, whose last query is the last token of `o`."""

    def __init__(self, o: DecayOperands, queries: Span, keys: Span):
        steps, self._rate = o.decay
        self._scalar_decay = o.scalar_decay
        self._steps, self._weight = steps[0], o.writes[0][0]  # token head
        # Sums along the last axis, which a GPU does in parallel.
        self._running = pad(self._steps.T.double().cumsum(1), (1, 0)).T  # edge head
        self._B, self._C = (x[0].transpose(0, 1) for x in (o.B, o.C))  # group token state
        self._one = steps.new_ones(1, 1, 1, 1)
        self._queries, self._keys = queries, keys
        wide = o.heads // o.groups
        self._groups = [slice(first, first + wide) for first in range(0, o.heads, wide)]

    def add(self, out: Float[Tensor, "kind query key"], kinds: Sequence[str]) -> None:
        """Add all kinds, each in the way that takes the least work."""
        if not self._scalar_decay:
            self.add_by_state(out, kinds)
            return
        for n, kind in enumerate(kinds):
            sums = out[n : n + 1]
            if kind == "mask":
                self.add_mask(sums)
            elif len(self._groups) == len(self._rate):
                self.add_map_by_head(sums)
            else:
                self.add_map_by_group(sums)

    def add_by_state(self, out: Float[Tensor, "kind query key"], kinds: Sequence[str]) -> None:
        """Add all kinds for heads whose states have their own decay. The kinds share it, so they run together."""
        ones, no_weight = torch.ones_like(self._B[0]), self._one[0, 0].expand_as(self._steps)
        weights = [self._weight if kind == "map" else no_weight for kind in kinds]
        for heads, B, C in zip(self._groups, self._B, self._C, strict=True):
            read, write = (
                torch.stack([x if kind == "map" else ones for kind in kinds]).unsqueeze(1)
                for x in (C, B)
            )
            self._add(out, heads, read, write, weights)

    def add_mask(self, out: Float[Tensor, "1 query key"]) -> None:
        """Add the mask of heads that have one decay."""
        ones = self._one.expand(1, 1, len(self._steps), 1)
        self._add(out, slice(None), ones, ones, [self._one[0, 0].expand_as(self._steps)])

    def add_map_by_group(self, out: Float[Tensor, "1 query key"]) -> None:
        """Add the map of heads that have one decay, for each group that shares C Bᵀ."""
        ones = self._one.expand(1, 1, len(self._steps), 1)
        queries, keys = slice(*self._queries), slice(*self._keys)
        for heads, B, C in zip(self._groups, self._B, self._C, strict=True):
            decayed = torch.zeros_like(out)
            self._add(decayed, heads, ones, ones, [self._weight])
            out.addcmul_(decayed, C[queries] @ B[keys].mT)

    def add_map_by_head(self, out: Float[Tensor, "1 query key"]) -> None:
        """Add the map of heads that have one decay and their own C and B."""
        self._add(out, slice(None), self._C.unsqueeze(0), self._B.unsqueeze(0), [self._weight])

    def _add(
        self,
        out: Float[Tensor, "kind query key"],
        heads: slice,
        read: Float[Tensor, "kind own token state"],
        write: Float[Tensor, "kind own token state"],
        weights: Sequence[Float[Tensor, "token head"]],
    ) -> None:
        """Add the sums over some heads. The axis `own` has one entry for each head with its own C and B, else one."""
        steps, running = self._steps[:, heads], self._running[:, heads]
        weights = [weight[:, heads] for weight in weights]
        rate = self._rate[heads].expand(-1, read.shape[3])
        square = self._queries == self._keys
        for some, slabs in self._slabs(rate, square, own=read.shape[1] > 1):
            own = some if read.shape[1] > 1 else slice(None)
            pairs = DecayedPairs(
                steps=_by_slab(steps[:, some], slabs),
                rate=rate[some].unflatten(0, (slabs, -1)),
                read=read[:, own],
                write=write[:, own],
                weight=_by_slab(torch.stack([weight[:, some] for weight in weights]), slabs),
                running=_by_slab(running[:, some], slabs),
            )
            if square:
                add_square(out.unsqueeze(1), pairs)
            else:
                add_rectangle(out, pairs, self._queries, self._keys)

    def _slabs(
        self, rate: Float[Tensor, "head state"], square: bool, *, own: bool
    ) -> Iterator[tuple[slice, int]]:
        """Batches of heads as (their slice, in how many slabs to compute them)."""
        heads, states = rate.shape
        device = "cuda" if rate.is_cuda else "cpu"
        entries, inner = _ENTRIES[device], _INNER[device]
        tokens = max(len(self._steps[slice(*ends)]) for ends in (self._queries, self._keys))
        if square:
            wide = 1 if own else max(1, max(inner, _ENTRIES["cpu"] // tokens) // states)
            # A product has at least tokens/4 columns for each slab.
            side = max(1, entries // (tokens * max(wide * states, tokens // 4)))
        else:
            wide = max(1, max(inner, entries // tokens) // states)
            wide, side = (1, wide) if own else (wide, 1)
        first = 0
        while first < heads:
            slabs = max(1, min(side, (heads - first) // wide))
            end = min(first + slabs * wide, heads)
            yield slice(first, end), slabs
            first = end


def _by_slab(
    x: Float[Tensor, "*kind token head"], slabs: int
) -> Float[Tensor, "*kind slab token part"]:
    return x.unflatten(-1, (slabs, -1)).movedim(-2, -3)
