"""Edges of a layer: entries (query, key) of its matrices M, and what the layer's output owes to them.

M is never made whole. All edges between some queries and some keys are one more run of the recurrence, over the keys'
tokens alone: M is linear in x. Everything off the diagonal is what the layer computed less the diagonal. Other sets are
summed pair by pair, or by tiles of M.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssmlens.scan.operator import Operator, Span

Mix = Callable[[Operator, Tensor], Tensor]
"""M x [batch token head headdim] of an operator, without D."""

SumChosen = Callable[[Operator, Tensor, Tensor, int], Tensor | None]
"""Σ_{j≤i} M[i, j] x[j] over chosen edges [query token] of the queries from a first one on, or None: it cannot."""

# Entries [batch head query key] of M in memory at once.
_ENTRIES = {"cpu": 2**22, "cuda": 2**26}
# Pairs are taken one by one where they are fewer than this share of the rectangle that holds them.
_FEW = 1 / 8


@dataclasses.dataclass(frozen=True)
class Edges:
    """Entries of M of some heads: those whose query, key and lag are all chosen, and that `mask` allows.

    What is chosen lies on the CPU, where asking for it makes no GPU wait; `mask` lies anywhere.

    Attributes:
        queries: Which tokens' rows.
        keys: Which tokens' columns.
        lags: How many tokens back, i − j ≥ 0; where M is not causal how many apart, |i − j|.
        heads: Whose M.
        mask: Which entries, or None: all.
    """

    queries: Bool[Tensor, " token"]
    keys: Bool[Tensor, " token"]
    lags: Bool[Tensor, " token"]
    heads: Bool[Tensor, " head"]
    mask: Bool[Tensor, "token token"] | None = None

    def __and__(self, other: "Edges") -> "Edges":
        """The edges in both."""
        masks = [edges.mask for edges in (self, other) if edges.mask is not None]
        return Edges(
            self.queries & other.queries,
            self.keys & other.keys,
            self.lags & other.lags,
            self.heads & other.heads,
            None if not masks else masks[0] if len(masks) == 1 else masks[0] & masks[1],
        )

    @functools.cached_property
    def is_product(self) -> bool:
        """Whether every query goes with every key that M lets it see."""
        return self.mask is None and "lags" in self._whole

    @functools.cached_property
    def is_off_diagonal(self) -> bool:
        """Whether it is everything off the diagonal."""
        everything = self.mask is None and {"queries", "keys"} <= self._whole
        return everything and not self.lags[:1].any() and bool(self.lags[1:].all())

    @property
    def of_all_heads(self) -> bool:
        """Whether it has entries of every head's M."""
        return "heads" in self._whole

    @functools.cached_property
    def _whole(self) -> frozenset[str]:
        """Of what everything is chosen."""
        parts = ("queries", "keys", "lags", "heads")
        return frozenset(part for part in parts if bool(getattr(self, part).all()))

    @functools.cached_property
    def _is_empty(self) -> bool:
        parts = (self.queries, self.keys, self.lags, self.heads)
        return not all(bool(part.any()) for part in parts)

    def __bool__(self) -> bool:
        return not self._is_empty

    def within(
        self, first: int, end: int, device: torch.device | None = None, causal: bool = True
    ) -> Bool[Tensor, "query key"]:
        """Which entries of the rows first ≤ i < end, and of all columns, it has, of an M that is causal or is not."""
        tokens = torch.arange(len(self.queries), device=device)
        lag = tokens[first:end, None] - tokens
        lag = lag if causal else lag.abs()
        chosen = lag >= 0
        if "queries" not in self._whole:
            chosen &= _sent(self.queries, device)[first:end, None]
        if "keys" not in self._whole:
            chosen &= _sent(self.keys, device)
        if "lags" not in self._whole:
            chosen &= _sent(self.lags, device)[lag.clamp(min=0)]
        return chosen if self.mask is None else chosen & self.mask[first:end].to(device)

    def within_or_above(
        self, first: int, end: int, device: torch.device | None = None
    ) -> Bool[Tensor, "query key"]:
        """The same of a causal M, for those who pass over keys after their query: these may be chosen or not."""
        if self.mask is not None and {"queries", "keys", "lags"} <= self._whole:
            return self.mask[first:end].to(device)
        return self.within(first, end, device)


def _sent(chosen: Tensor, device: torch.device | None) -> Tensor:
    """What is chosen, from the CPU to where it is needed, without waiting for that device."""
    return chosen.to(device, non_blocking=True)


def mix_by_recurrence(o: Operator, x: Tensor) -> Tensor:
    """M x as the operator itself computes it."""
    return o(x)


def passed_over(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    edges: Sequence[Edges],
    mix: Mix = mix_by_recurrence,
    sum_chosen: SumChosen | None = None,
) -> Float[Tensor, "batch token head headdim"]:
    """Σ M[i, j] x[j] over the edges that are in any of these sets, each once: what knocking them out takes away.

    Args:
        o: The operator.
        x: What it mixes.
        edges: The sets.
        mix: What computes M x; by default the operator's recurrence.
        sum_chosen: What sums over any edges, where it can.
    """
    total = None
    for n, some in enumerate(edges):
        if some:
            of_these = _sum_over(o, x, some, mix, sum_chosen)
            total = of_these if total is None else total + of_these
            twice = [both for other in edges[:n] if (both := some & other)]
            if twice:
                total = total - passed_over(o, x, twice, mix, sum_chosen)
    return torch.zeros_like(x) if total is None else total


def _sum_over(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    edges: Edges,
    mix: Mix,
    sum_chosen: SumChosen | None,
) -> Float[Tensor, "batch token head headdim"]:
    if edges.is_product:
        return _of_product(o, x, edges, mix)
    if edges.is_off_diagonal:
        mixed = mix(o, x) - o.diagonal().unsqueeze(3) * x
        return mixed if edges.of_all_heads else mixed * _sent(edges.heads, x.device)[:, None]
    if edges.of_all_heads:
        return _by_rows(o, x, edges, sum_chosen)
    heads = edges.heads.nonzero().flatten().tolist()
    total = torch.zeros_like(x)
    total[:, :, heads] = _by_rows(o.select_heads(heads), x[:, :, heads], edges, sum_chosen)
    return total


def _of_product(
    o: Operator, x: Float[Tensor, "batch token head headdim"], edges: Edges, mix: Mix
) -> Float[Tensor, "batch token head headdim"]:
    of_keys = _sent(edges.keys, x.device)[:, None, None]
    if not edges.of_all_heads:
        of_keys = of_keys & _sent(edges.heads, x.device)[:, None]
    of_queries = _sent(edges.queries, x.device)[:, None, None]
    return torch.where(of_queries, mix(o, torch.where(of_keys, x, 0)), 0)


def _by_rows(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    edges: Edges,
    sum_chosen: SumChosen | None,
) -> Float[Tensor, "batch token head headdim"]:
    """As many rows at a time as fit in memory: by `sum_chosen`; pair by pair where there are few; else by M itself."""
    limit = _ENTRIES["cuda" if x.is_cuda else "cpu"]
    at_once = max(1, limit // max(1, o.batch * o.tokens))
    out = []
    for first in range(0, o.tokens, at_once):
        end = min(first + at_once, o.tokens)
        summed = None
        if sum_chosen is not None and o.is_causal:
            summed = sum_chosen(o, x, edges.within_or_above(first, end, x.device), first)
        if summed is None:
            chosen = edges.within(first, end, x.device, o.is_causal)
            summed = _by_pairs(o, x, chosen, first)
            summed = _by_matrix(o, x, chosen, first, end) if summed is None else summed
        out.append(summed)
    return out[0] if len(out) == 1 else torch.cat(out, dim=1)


def _by_pairs(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    chosen: Bool[Tensor, "query key"],
    first: int,
) -> Float[Tensor, "batch query head headdim"] | None:
    """The sum over pairs one by one; None where they are many, or where a pair costs as much as a rectangle."""
    i, j = chosen.nonzero(as_tuple=True)
    if len(i) >= _FEW * chosen.numel():
        return None
    own = i + first == j
    of_pairs = o.entries(i[~own] + first, j[~own])
    if of_pairs is None:
        return None
    put = x.new_zeros(o.batch, len(chosen), *x.shape[2:])
    put = put.index_add(1, i[~own], of_pairs.unsqueeze(3) * x[:, j[~own]])
    at = j[own]
    diagonal = o.diagonal()[:, at].unsqueeze(3) * x[:, at]
    return put.index_add(1, i[own], diagonal)


def _by_matrix(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    chosen: Bool[Tensor, "query key"],
    first: int,
    end: int,
) -> Float[Tensor, "batch query head headdim"]:
    limit = _ENTRIES["cuda" if x.is_cuda else "cpu"]
    seen = end if o.is_causal else o.tokens
    some = max(1, limit // max(1, o.batch * (end - first) * seen))
    parts = [x.new_zeros(o.batch, end - first, 0, x.shape[3])]
    if not bool(chosen.any()):
        return x.new_zeros(o.batch, end - first, *x.shape[2:])
    for heads in torch.arange(o.heads).split(some):
        M = o.matrix(heads.tolist(), (first, end), (0, seen)) * chosen[:, :seen]
        parts.append((M @ x[:, :seen, heads].transpose(1, 2)).transpose(1, 2))
    return torch.cat(parts, dim=2)


def change_of_rows(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    heads: Sequence[int],
    change: Callable[[Tensor, Span], Tensor],
) -> Float[Tensor, "batch token head headdim"]:
    """What changing rows of M adds to the layer's y: (change(M) − M) x, for some heads, rows by rows.

    Args:
        o: The operator.
        x: What it mixes.
        heads: Whose M is changed.
        change: M of some heads and queries, [batch head query key] with every key of the prompt, to another one.
    """
    limit = _ENTRIES["cuda" if x.is_cuda else "cpu"]
    total = torch.zeros_like(x)
    rows = max(1, limit // max(1, o.batch * o.tokens * len(heads)))
    for first in range(0, o.tokens if heads else 0, rows):
        queries = (first, min(first + rows, o.tokens))
        M = o.matrix(heads, queries, (0, o.tokens))
        difference = change(M, queries) - M
        put = (difference @ x[:, :, heads].transpose(1, 2)).transpose(1, 2)
        total[:, slice(*queries), list(heads)] = put
    return total
