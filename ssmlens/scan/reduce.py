"""Reduce the maps of a prompt too long for memory to block means, block maxima and exact statistics.

One pass over tiles computes all of them, and no tile stays in memory. Only the reach needs a second pass
(`scan.reach`).
"""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.functional import pad

from ssmlens.names import MAP, MAP_ARRAYS, MAP_STATISTICS, MASK
from ssmlens.scan.operator import Operator, scan_dtype
from ssmlens.scan.reach import late_reach
from ssmlens.scan.spans import tiles

# A tile is copied to float64 in this many strips, so that only a part of it is in memory twice.
_STRIPS = 16


@dataclasses.dataclass(frozen=True)
class ReducedMaps:
    """A layer's maps by blocks of tokens, and the exact statistics that scores and checks need.

    Means and maxima are over the pairs j ≤ i of a block, or over all pairs if M is not causal. A maximum is the entry
    of largest magnitude, with its sign. Both are 0 for a block without such a pair.

    Attributes:
        mean: Block means of every map, by its kind.
        largest: Block maxima of every map.
        product: Σ_j map[i,j] vector[j] of every map, which `Operator.probe` computes without the map.
        lag_energy: Mean over i of M̄[i, i − lag]², M̄ being the attention map.
        ahead_energy: Mean over i of M̄[i, i + lag]²; None if M is causal.
        row_magnitude: Σ_j |M̄[i,j]|.
        target_magnitude: |M̄[i, target[i]]|; 0 if a token has no target.
        previous_magnitude: |M̄[i, i − 1]|; 0 for the first token.
        first_magnitude: |M̄[i, 0]|.
        separator_magnitude: Σ_j |M̄[i,j]| over separators 0 < j < i.
        reach: How many tokens back half of a late query's |M̄| extends (`scan.reach.late_reach`), −1 for other queries;
            None if M is not causal.
        mask_row_sum: Σ_j mask[i,j]; None if there is no mask.
    """

    mean: Mapping[str, Float[Tensor, "query_block key_block"]]
    largest: Mapping[str, Float[Tensor, "query_block key_block"]]
    product: Mapping[str, Float[Tensor, "token"]]
    lag_energy: Float[Tensor, "lag"]
    row_magnitude: Float[Tensor, "token"]
    target_magnitude: Float[Tensor, "token"]
    previous_magnitude: Float[Tensor, "token"]
    first_magnitude: Float[Tensor, "token"]
    separator_magnitude: Float[Tensor, "token"]
    reach: Float[Tensor, "token"] | None
    mask_row_sum: Float[Tensor, "token"] | None
    ahead_energy: Float[Tensor, "lag"] | None = None

    def statistics(self) -> dict[str, Tensor]:
        """The exact statistics of the attention map, by the names of `ssmlens.names`."""
        statistics = {name: getattr(self, name) for name in MAP_STATISTICS}
        return {name: value for name, value in statistics.items() if value is not None}

    def arrays(self) -> dict[str, Tensor]:
        """The arrays that a file stores, by the names of `ssmlens.names`: all but the products."""
        rest = {"mask_row_sum": self.mask_row_sum, "ahead_energy": self.ahead_energy}
        return {
            **{f"{MAP_ARRAYS[kind]}_mean": value for kind, value in self.mean.items()},
            **{f"{MAP_ARRAYS[kind]}_max": value for kind, value in self.largest.items()},
            **self.statistics(),
            **{name: value for name, value in rest.items() if value is not None},
        }


def reduced_maps(
    operands: Operator,
    block: int,
    target: Int[Tensor, "token"] | None = None,
    vector: Float[Tensor, "token"] | None = None,
    separator: Bool[Tensor, "token"] | None = None,
) -> ReducedMaps:
    """Reduce the maps of one long sequence, tile by tile.

    Memory: the operands, one tile, less than another tile for computing it (see `tiles`), and the result. Sums are in
    float64; the result has the dtype of the scan.

    Args:
        operands: Operands of one sequence (a batch of one), cut to its real tokens; `x` is not needed.
        block: Tokens on a side of a block.
        target: The position that each query must look at, −1 for none. None: no query has one.
        vector: The vector that the maps are multiplied with. None: ones.
        separator: Which tokens are separators. None: no token is.

    Raises:
        ValueError: There is more than one sequence, or a block has no token.
    """
    if operands.batch != 1 or block < 1:
        raise ValueError(
            f"pass one sequence and blocks of ≥ 1 token: {operands.batch} sequences, {block} tokens"
        )
    o = operands.bare()
    sums = _Sums(o, block, separator)
    nowhere = torch.full_like(sums.row_magnitude, -1, dtype=torch.long)
    target = nowhere if target is None else target.to(nowhere)
    ones = torch.ones_like(sums.row_magnitude)
    vector = ones if vector is None else vector.to(ones)
    for queries, keys in tiles(o, block):
        tile = o.means(o.maps, queries, keys)[0]
        tokens = queries[1] - queries[0]
        height = -(-tokens // (_STRIPS * block)) * block
        for first in range(0, tokens, height):
            for kind, entries in zip(o.maps, tile, strict=True):
                strip = entries[first : first + height].double()
                sums.add(kind, strip, queries[0] + first, keys[0], target, vector)
        del tile  # frees its memory before the next one
    reach = late_reach(o, block, sums.of_keys) if o.is_causal else None
    return sums.reduced(scan_dtype(o.like), reach)


class _Sums:
    """Running sums over strips of a layer's maps: some rows of a tile, whose first query and key start a block."""

    def __init__(self, o: Operator, block: int, separator: Bool[Tensor, "token"] | None):
        self._tokens, self._block, self._kinds = o.tokens, block, o.maps
        self._causal = o.is_causal
        blocks = -(-o.tokens // block)

        def zeros(*shape: int) -> Tensor:
            return o.like.new_zeros(shape, dtype=torch.double)

        self._total = {kind: zeros(blocks, blocks) for kind in o.maps}
        self._largest = {kind: zeros(blocks, blocks) for kind in o.maps}
        self._product = {kind: zeros(o.tokens) for kind in o.maps}
        self._energy = zeros(max(0, 2 * o.tokens - 1))  # by i − j, from 1 − tokens on
        self._mask_row_sum, self.row_magnitude = zeros(o.tokens), zeros(o.tokens)
        self._target_magnitude, self._previous_magnitude = zeros(o.tokens), zeros(o.tokens)
        self._first_magnitude, self._separator_magnitude = zeros(o.tokens), zeros(o.tokens)
        # By the first key of each tile, every query's magnitude on the tile's keys.
        self.of_keys: dict[int, Tensor] = {}
        self._position = torch.arange(o.tokens, device=o.like.device)
        self._separator = torch.zeros_like(self._position, dtype=torch.bool)
        if separator is not None:
            self._separator[1:] = separator.to(self._separator)[1:]

    def add(
        self,
        kind: str,
        strip: Float64[Tensor, "query key"],
        query: int,
        key: int,
        target: Int[Tensor, "token"],
        vector: Float64[Tensor, "token"],
    ) -> None:
        """Add a strip that begins at this query and key. Overwrites the strip with its magnitudes."""
        rows, columns = slice(query, query + len(strip)), slice(key, key + strip.shape[1])
        self._set_blocks(kind, strip, query, key)
        self._product[kind][rows] += strip @ vector[columns]
        if kind == MASK:
            self._mask_row_sum[rows] += strip.sum(1)
        if kind == MAP:
            self._add_lags(strip, query - key)  # overwrites the strip with its magnitudes
            magnitude = strip.sum(1)
            self.row_magnitude[rows] += magnitude
            of_keys = self.of_keys.setdefault(key, torch.zeros_like(self.row_magnitude))
            of_keys[rows] += magnitude
            self._target_magnitude[rows] += _at(strip, target[rows] - key)
            self._previous_magnitude[rows] += _at(strip, self._position[rows] - 1 - key)
            self._first_magnitude[rows] += strip[:, 0] if key == 0 else 0
            self._add_separators(strip, rows, columns)

    def reduced(self, dtype: torch.dtype, reach: Int[Tensor, "token"] | None) -> ReducedMaps:
        """Divide the sums: by the pairs of each block, and by the queries that have a token at each lag."""
        tokens, block, device = self._tokens, self._block, self.row_magnitude.device
        length = torch.arange(tokens, 0, -block, device=device).clamp(max=block)
        pairs = torch.outer(length, length)
        if self._causal:
            pairs = pairs.tril(-1) + torch.diag(length * (length + 1) // 2)
        pairs = pairs.clamp(min=1)
        queries = torch.arange(tokens, 0, -1, device=device)
        back, ahead = self._energy[tokens - 1 :], self._energy[:tokens].flip(0)
        return ReducedMaps(
            mean={kind: (total / pairs).to(dtype) for kind, total in self._total.items()},
            largest={kind: value.to(dtype) for kind, value in self._largest.items()},
            product={kind: value.to(dtype) for kind, value in self._product.items()},
            lag_energy=(back / queries).to(dtype),
            ahead_energy=None if self._causal else (ahead / queries).to(dtype),
            row_magnitude=self.row_magnitude.to(dtype),
            target_magnitude=self._target_magnitude.to(dtype),
            previous_magnitude=self._previous_magnitude.to(dtype),
            first_magnitude=self._first_magnitude.to(dtype),
            separator_magnitude=self._separator_magnitude.to(dtype),
            reach=None if reach is None else reach.to(dtype),
            mask_row_sum=self._mask_row_sum.to(dtype) if MASK in self._kinds else None,
        )

    def _add_lags(self, strip: Float64[Tensor, "query key"], apart: int) -> None:
        """Add the squares by lag. Keys are reversed and each row is shifted by one place, so a column has one lag."""
        height, width = strip.shape
        sheared = pad(strip.abs_().flip(1).square_(), (0, height)).flatten()[:-height]
        energy = sheared.unflatten(0, (height, -1)).sum(0)
        lag = apart - (width - 1) + self._tokens - 1
        self._energy[lag : lag + len(energy)] += energy

    def _add_separators(
        self, strip: Float64[Tensor, "query key"], rows: slice, columns: slice
    ) -> None:
        """Add the magnitudes on separators before the query."""
        keys = self._separator[columns].nonzero().flatten()
        before = keys + columns.start < self._position[rows, None]
        self._separator_magnitude[rows] += torch.where(before, strip[:, keys], 0).sum(1)

    def _set_blocks(
        self, kind: str, strip: Float64[Tensor, "query key"], query: int, key: int
    ) -> None:
        """Set the sum and the entry of largest magnitude of each block in this strip, which has only full blocks."""
        missing = [-size % self._block for size in strip.shape]
        padded = pad(strip, (0, missing[1], 0, missing[0])) if any(missing) else strip
        blocks = padded.unflatten(1, (-1, self._block)).unflatten(0, (-1, self._block))
        rows, columns = query // self._block, key // self._block
        here = slice(rows, rows + blocks.shape[0]), slice(columns, columns + blocks.shape[2])
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
        self._total[kind][here] = blocks.sum((1, 3))
        self._largest[kind][here] = torch.where(-low > high, low, high)


def _at(
    strip: Float64[Tensor, "query key"], column: Int[Tensor, "query"]
) -> Float64[Tensor, "query"]:
    """Each row's entry in its column; 0 if the strip does not have the column."""
    inside = (column >= 0) & (column < strip.shape[1])
    entries = strip.gather(1, column.clamp(0, strip.shape[1] - 1).unsqueeze(1)).squeeze(1)
    return torch.where(inside, entries, 0)
