"""Edges of a layer: entries (query, key) of its matrices M, and their contribution to the layer's output.

No function stores all of M. The mixing is linear in x, so all edges between some queries and some keys are one more
run of the recurrence, over the tokens of these keys alone. All edges off the diagonal are M x minus the diagonal. Other
sets are summed pair by pair, or by tiles of M.
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
"""Σ_{j≤i} M[i, j] x[j] over selected edges [query token]; the last argument is the first query. None: unsupported."""

# Entries [batch head query key] of M in memory at once.
_ENTRIES = {"cpu": 2**22, "cuda": 2**26}
# Pairs are summed one by one if they are fewer than this share of their rectangle.
_FEW = 1 / 8


@dataclasses.dataclass(frozen=True)
class Edges:
    """Entries of M of some heads whose query, key and lag are all selected, and that `mask` selects.

    The selections are on the CPU, so that reading them waits for no GPU. `mask` may be on any device.

    Attributes:
        queries: The selected rows.
        keys: The selected columns.
        lags: The selected distances i − j ≥ 0; if M is not causal, |i − j|.
        heads: The selected heads.
        mask: The selected entries. None: all.
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
        """Whether every selected query is paired with every selected key that M lets it see."""
        return self.mask is None and "lags" in self._complete

    @functools.cached_property
    def is_off_diagonal(self) -> bool:
        """Whether these are all entries off the diagonal."""
        all_tokens = self.mask is None and {"queries", "keys"} <= self._complete
        return all_tokens and not self.lags[:1].any() and bool(self.lags[1:].all())

    @property
    def of_all_heads(self) -> bool:
        """Whether all heads are selected."""
        return "heads" in self._complete

    @functools.cached_property
    def _complete(self) -> frozenset[str]:
        """Names of the selections that select everything."""
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
        """The selected entries in rows first ≤ i < end and all columns, for a causal M or another one."""
        tokens = torch.arange(len(self.queries), device=device)
        lag = tokens[first:end, None] - tokens
        lag = lag if causal else lag.abs()
        chosen = lag >= 0
        if "queries" not in self._complete:
            chosen &= _send(self.queries, device)[first:end, None]
        if "keys" not in self._complete:
            chosen &= _send(self.keys, device)
        if "lags" not in self._complete:
            chosen &= _send(self.lags, device)[lag.clamp(min=0)]
        return chosen if self.mask is None else chosen & self.mask[first:end].to(device)

    def within_or_above(
        self, first: int, end: int, device: torch.device | None = None
    ) -> Bool[Tensor, "query key"]:
        """`within` for a causal M, for callers that ignore entries above the diagonal: these may have any value."""
        if self.mask is not None and {"queries", "keys", "lags"} <= self._complete:
            return self.mask[first:end].to(device)
        return self.within(first, end, device)


def _send(chosen: Tensor, device: torch.device | None) -> Tensor:
    """Copy a selection from the CPU to a device, without waiting for it."""
    return chosen.to(device, non_blocking=True)


def mix_by_recurrence(o: Operator, x: Tensor) -> Tensor:
    """M x by the operator's own recurrence."""
    return o(x)


def sum_over_union(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    edges: Sequence[Edges],
    mix: Mix = mix_by_recurrence,
    sum_chosen: SumChosen | None = None,
) -> Float[Tensor, "batch token head headdim"]:
    """Σ M[i, j] x[j] over the union of these sets of edges: what y loses if they are knocked out.

    Args:
        o: The operator.
        x: Its input.
        edges: The sets.
        mix: Computes M x; by default the operator's recurrence.
        sum_chosen: Sums over any selected edges, or returns None if it does not support them.
    """
    total = None
    for n, some in enumerate(edges):
        if some:
            of_these = _sum_over(o, x, some, mix, sum_chosen)
            total = of_these if total is None else total + of_these
            twice = [both for other in edges[:n] if (both := some & other)]
            if twice:
                total = total - sum_over_union(o, x, twice, mix, sum_chosen)
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
        return mixed if edges.of_all_heads else mixed * _send(edges.heads, x.device)[:, None]
    if edges.of_all_heads:
        return _by_rows(o, x, edges, sum_chosen)
    heads = edges.heads.nonzero().flatten().tolist()
    total = torch.zeros_like(x)
    total[:, :, heads] = _by_rows(o.select_heads(heads), x[:, :, heads], edges, sum_chosen)
    return total


def _of_product(
    o: Operator, x: Float[Tensor, "batch token head headdim"], edges: Edges, mix: Mix
) -> Float[Tensor, "batch token head headdim"]:
    of_keys = _send(edges.keys, x.device)[:, None, None]
    if not edges.of_all_heads:
        of_keys = of_keys & _send(edges.heads, x.device)[:, None]
    of_queries = _send(edges.queries, x.device)[:, None, None]
    return torch.where(of_queries, mix(o, torch.where(of_keys, x, 0)), 0)


def _by_rows(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    edges: Edges,
    sum_chosen: SumChosen | None,
) -> Float[Tensor, "batch token head headdim"]:
    """Sum over edges, with as many rows at a time as fit in memory.

    By `sum_chosen` if it supports them; else pair by pair if they are few; else by tiles of M.
    """
    limit = _ENTRIES["cuda" if x.is_cuda else "cpu"]
    rows = max(1, limit // max(1, o.batch * o.tokens))
    out = []
    for first in range(0, o.tokens, rows):
        end = min(first + rows, o.tokens)
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
    """The sum over pairs one by one. None if there are many, or if a single pair costs as much as a rectangle."""
    i, j = chosen.nonzero(as_tuple=True)
    if len(i) >= _FEW * chosen.numel():
        return None
    own = i + first == j
    of_pairs = o.entries(i[~own] + first, j[~own])
    if of_pairs is None:
        return None
    total = x.new_zeros(o.batch, len(chosen), *x.shape[2:])
    total = total.index_add(1, i[~own], of_pairs.unsqueeze(3) * x[:, j[~own]])
    at = j[own]
    diagonal = o.diagonal()[:, at].unsqueeze(3) * x[:, at]
    return total.index_add(1, i[own], diagonal)


def _by_matrix(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    chosen: Bool[Tensor, "query key"],
    first: int,
    end: int,
) -> Float[Tensor, "batch query head headdim"]:
    limit = _ENTRIES["cuda" if x.is_cuda else "cpu"]
    keys = end if o.is_causal else o.tokens
    heads_in_memory = max(1, limit // max(1, o.batch * (end - first) * keys))
    parts = [x.new_zeros(o.batch, end - first, 0, x.shape[3])]
    if not bool(chosen.any()):
        return x.new_zeros(o.batch, end - first, *x.shape[2:])
    for heads in torch.arange(o.heads).split(heads_in_memory):
        M = o.matrix(heads.tolist(), (first, end), (0, keys)) * chosen[:, :keys]
        parts.append((M @ x[:, :keys, heads].transpose(1, 2)).transpose(1, 2))
    return torch.cat(parts, dim=2)


def change_of_rows(
    o: Operator,
    x: Float[Tensor, "batch token head headdim"],
    heads: Sequence[int],
    change: Callable[[Tensor, Span], Tensor],
) -> Float[Tensor, "batch token head headdim"]:
    """The change of y if rows of M change: (change(M) − M) x for some heads, computed for some rows at a time.

    Args:
        o: The operator.
        x: Its input.
        heads: The heads whose M changes.
        change: Takes rows of M, [batch head query key] with every key of the prompt, and the range of their queries.
            Returns the new rows.
    """
    limit = _ENTRIES["cuda" if x.is_cuda else "cpu"]
    total = torch.zeros_like(x)
    rows = max(1, limit // max(1, o.batch * o.tokens * len(heads)))
    for first in range(0, o.tokens if heads else 0, rows):
        queries = (first, min(first + rows, o.tokens))
        M = o.matrix(heads, queries, (0, o.tokens))
        difference = change(M, queries) - M
        changed = (difference @ x[:, :, heads].transpose(1, 2)).transpose(1, 2)
        total[:, slice(*queries), list(heads)] = changed
    return total
