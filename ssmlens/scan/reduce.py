"""What is kept of the maps of a prompt too long to hold them: block means and maxima, and exact statistics.

All of it comes out of one pass over tiles, each of which is used and forgotten.
"""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn.functional import pad

from ssmlens.names import MAP, MAP_ARRAYS, MASK
from ssmlens.scan.operator import Operator, scan_dtype
from ssmlens.scan.spans import tiles

# A tile is summed in float64 by so many strips, to hold little of it twice.
_STRIPS = 16


@dataclasses.dataclass(frozen=True)
class ReducedMaps:
    """A layer's maps by blocks of tokens, and what scores and proofs need to know of them exactly.

    Means and maxima are over the pairs j ≤ i in a block, or over all pairs where M is not causal; a maximum is the
    entry of largest magnitude, with its sign; both are 0 where a block has no such pair.

    Attributes:
        mean: Block means of every map, by its kind.
        largest: Block maxima of every map.
        product: Σ_j map[i,j] vector[j] of every map, which `Operator.probe` computes without it.
        lag_energy: Mean over i of M̄[i, i − lag]², M̄ being the attention map.
        ahead_energy: Mean over i of M̄[i, i + lag]²; None where M is causal.
        row_magnitude: Σ_j |M̄[i,j]|.
        target_magnitude: |M̄[i, target[i]]|; 0 where a token has no target.
        mask_row_sum: Σ_j mask[i,j]; None where there is no mask.
    """

    mean: Mapping[str, Float[Tensor, "query_block key_block"]]
    largest: Mapping[str, Float[Tensor, "query_block key_block"]]
    product: Mapping[str, Float[Tensor, "token"]]
    lag_energy: Float[Tensor, "lag"]
    row_magnitude: Float[Tensor, "token"]
    target_magnitude: Float[Tensor, "token"]
    mask_row_sum: Float[Tensor, "token"] | None
    ahead_energy: Float[Tensor, "lag"] | None = None

    def arrays(self) -> dict[str, Tensor]:
        """What a file stores, by the names of `ssmlens.names`: not the products."""
        rows = {
            "lag_energy": self.lag_energy,
            "ahead_energy": self.ahead_energy,
            "row_magnitude": self.row_magnitude,
            "target_magnitude": self.target_magnitude,
            "mask_row_sum": self.mask_row_sum,
        }
        return {
            **{f"{MAP_ARRAYS[kind]}_mean": value for kind, value in self.mean.items()},
            **{f"{MAP_ARRAYS[kind]}_max": value for kind, value in self.largest.items()},
            **{name: value for name, value in rows.items() if value is not None},
        }


def reduced_maps(
    operands: Operator,
    block: int,
    target: Int[Tensor, "token"] | None = None,
    vector: Float[Tensor, "token"] | None = None,
) -> ReducedMaps:
    """Reduce the maps of one long sequence without ever holding them.

    Memory: the operands, one tile and what makes it (less than another; see `tiles`), and the result. Sums are taken
    in float64; the result has the dtype of the scan.

    Args:
        operands: Operands of one sequence (a batch of one), cut to its real tokens; `x` is not needed.
        block: Tokens a side of a block.
        target: The position that each query must look at, −1 where it has none. None: nowhere.
        vector: What the maps are multiplied with. None: ones.

    Raises:
        ValueError: There is more than one sequence, or a block has no token.
    """
    if operands.batch != 1 or block < 1:
        raise ValueError(
            f"one sequence is reduced to blocks of ≥ 1 token: {operands.batch}, {block}"
        )
    o = operands.bare()
    sums = _Sums(o, block)
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
        del tile  # before the next one is made
    return sums.reduced(scan_dtype(o.like))


class _Sums:
    """Running sums over strips of a layer's maps: some rows of a tile, whose first query and key start a block."""

    def __init__(self, o: Operator, block: int):
        self._tokens, self._block, self._kinds = o.tokens, block, o.maps
        self._causal = o.is_causal
        blocks = -(-o.tokens // block)

        def zeros(*shape: int) -> Tensor:
            return o.like.new_zeros(shape, dtype=torch.double)

        self._total = {kind: zeros(blocks, blocks) for kind in o.maps}
        self._largest = {kind: zeros(blocks, blocks) for kind in o.maps}
        self._product = {kind: zeros(o.tokens) for kind in o.maps}
        self._target_magnitude, self._mask_row_sum = zeros(o.tokens), zeros(o.tokens)
        self._energy = zeros(max(0, 2 * o.tokens - 1))  # by i − j, from 1 − tokens on
        self.row_magnitude = zeros(o.tokens)

    def add(
        self,
        kind: str,
        strip: Float64[Tensor, "query key"],
        query: int,
        key: int,
        target: Int[Tensor, "token"],
        vector: Float64[Tensor, "token"],
    ) -> None:
        """Add what a strip holds, which begins at a query and a key; the strip is overwritten."""
        rows, columns = slice(query, query + len(strip)), slice(key, key + strip.shape[1])
        self._set_blocks(kind, strip, query, key)
        self._product[kind][rows] += strip @ vector[columns]
        if kind == MASK:
            self._mask_row_sum[rows] += strip.sum(1)
        if kind == MAP:
            self.row_magnitude[rows] += strip.abs().sum(1)
            wanted = target[rows] - key
            here = (wanted >= 0) & (wanted < strip.shape[1])
            looked = strip.gather(1, wanted.clamp(0, strip.shape[1] - 1).unsqueeze(1)).squeeze(1)
            self._target_magnitude[rows] += torch.where(here, looked.abs(), 0)
            self._add_lags(strip, query - key)

    def reduced(self, dtype: torch.dtype) -> ReducedMaps:
        """Means from sums: over the pairs of each block, and over the queries that have a token so far away."""
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
            mask_row_sum=self._mask_row_sum.to(dtype) if MASK in self._kinds else None,
        )

    def _add_lags(self, strip: Float64[Tensor, "query key"], apart: int) -> None:
        """Squares by lag: with the keys in reverse, and each row one place further right, a column holds one lag."""
        height, width = strip.shape
        sheared = pad(strip.square_().flip(1), (0, height)).flatten()[:-height]
        energy = sheared.unflatten(0, (height, -1)).sum(0)
        lag = apart - (width - 1) + self._tokens - 1
        self._energy[lag : lag + len(energy)] += energy

    def _set_blocks(
        self, kind: str, strip: Float64[Tensor, "query key"], query: int, key: int
    ) -> None:
        """The sum and the entry of largest magnitude of each block, all of which are in this strip."""
        beyond = [-size % self._block for size in strip.shape]
        whole = pad(strip, (0, beyond[1], 0, beyond[0])) if any(beyond) else strip
        blocks = whole.unflatten(1, (-1, self._block)).unflatten(0, (-1, self._block))
        rows, columns = query // self._block, key // self._block
        here = slice(rows, rows + blocks.shape[0]), slice(columns, columns + blocks.shape[2])
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
        self._total[kind][here] = blocks.sum((1, 3))
        self._largest[kind][here] = torch.where(-low > high, low, high)
