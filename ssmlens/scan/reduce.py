"""What is kept of the map and mask of a prompt too long to hold them: block means and maxima, and exact statistics.

All of it comes out of one pass over tiles, each of which is used and forgotten.
"""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn.functional import pad

from ssmlens.scan.operands import ScanOperands
from ssmlens.scan.tiles import attention_tile, tiles

# A tile is summed in float64 by so many strips, to hold little of it twice.
_STRIPS = 16


@dataclasses.dataclass(frozen=True)
class ReducedMaps:
    """An attention map and mask by blocks of tokens, and what scores and proofs need to know of them exactly.

    Means and maxima are over the pairs j ≤ i in a block; a maximum is the entry of largest magnitude, with its sign;
    both are 0 where a block has no such pair.

    Attributes:
        attention_map_mean: Block means of the map.
        attention_map_max: Block maxima of the map.
        attention_mask_mean: Block means of the mask.
        attention_mask_max: Block maxima of the mask.
        lag_energy: Mean over i of map[i, i − lag]².
        row_magnitude: Σ_j |map[i,j]|.
        mask_row_sum: Σ_j mask[i,j].
        target_magnitude: |map[i, target[i]]|; 0 where a token has no target.
        map_product: Σ_j map[i,j] vector[j], which `probe` computes without a map.
        mask_product: Σ_j mask[i,j] vector[j], likewise.
    """

    attention_map_mean: Float[Tensor, "query_block key_block"]
    attention_map_max: Float[Tensor, "query_block key_block"]
    attention_mask_mean: Float[Tensor, "query_block key_block"]
    attention_mask_max: Float[Tensor, "query_block key_block"]
    lag_energy: Float[Tensor, "lag"]
    row_magnitude: Float[Tensor, "token"]
    mask_row_sum: Float[Tensor, "token"]
    target_magnitude: Float[Tensor, "token"]
    map_product: Float[Tensor, "token"]
    mask_product: Float[Tensor, "token"]

    def map(self, function: Callable[[Tensor], Tensor]) -> "ReducedMaps":
        """The same with `function` applied to every tensor."""
        fields = dataclasses.fields(self)
        return ReducedMaps(**{field.name: function(getattr(self, field.name)) for field in fields})


def reduced_maps(
    operands: ScanOperands,
    block: int,
    target: Int[Tensor, "token"] | None = None,
    vector: Float[Tensor, "token"] | None = None,
) -> ReducedMaps:
    """Reduce the map and mask of one long sequence without ever holding them.

    Memory: the operands, one tile and what makes it (less than another; see `tiles`), and the result. Sums are taken
    in float64; the result has the dtype of the scan.

    Args:
        operands: Operands of one sequence (a batch of one), cut to its real tokens; `x` is not needed.
        block: Tokens a side of a block.
        target: The position that each query must look at, −1 where it has none. None: nowhere.
        vector: What map and mask are multiplied with. None: ones.

    Raises:
        ValueError: There is more than one sequence, or a block has no token.
    """
    if operands.batch != 1 or block < 1:
        raise ValueError(
            f"one sequence is reduced to blocks of ≥ 1 token: {operands.batch}, {block}"
        )
    o = operands.only_maps()
    sums = _zeros(o, block)
    nowhere = torch.full_like(sums.row_magnitude, -1, dtype=torch.long)
    target = nowhere if target is None else target.to(nowhere)
    ones = torch.ones_like(sums.row_magnitude)
    vector = ones if vector is None else vector.to(ones)
    for queries, keys in tiles(o, block):
        tile = [kind[0] for kind in attention_tile(o, queries, keys)]
        tokens = queries[1] - queries[0]
        height = -(-tokens // (_STRIPS * block)) * block
        for first in range(0, tokens, height):
            strip = _Strip(sums, block, queries[0] + first, keys[0])
            of_map, of_mask = (kind[first : first + height].double() for kind in tile)
            strip.add_map(of_map, target, vector)
            strip.add_mask(of_mask, vector)
        del tile  # before the next one is made
    return _means(sums, o.tokens, block).map(lambda total: total.to(o.delta.dtype))


def _zeros(o: ScanOperands, block: int) -> ReducedMaps:
    blocks = -(-o.tokens // block)
    per_block = [o.delta.new_zeros(blocks, blocks, dtype=torch.double) for _ in range(4)]
    per_token = [o.delta.new_zeros(o.tokens, dtype=torch.double) for _ in range(6)]
    return ReducedMaps(*per_block, *per_token)


def _means(sums: ReducedMaps, tokens: int, block: int) -> ReducedMaps:
    """Means from sums: over the pairs j ≤ i of each block, and over the queries that have a token so far back."""
    length = torch.arange(tokens, 0, -block, device=sums.lag_energy.device).clamp(max=block)
    pairs = torch.outer(length, length).tril(-1) + torch.diag(length * (length + 1) // 2)
    pairs = pairs.clamp(min=1)
    return dataclasses.replace(
        sums,
        attention_map_mean=sums.attention_map_mean / pairs,
        attention_mask_mean=sums.attention_mask_mean / pairs,
        lag_energy=sums.lag_energy / torch.arange(tokens, 0, -1, device=sums.lag_energy.device),
    )


class _Strip:
    """Some rows of a tile, whose first query and first key start a block; adds what they hold to the sums."""

    def __init__(self, sums: ReducedMaps, block: int, query: int, key: int):
        self._sums, self._block, self._query, self._key = sums, block, query, key

    def add_map(
        self,
        strip: Float64[Tensor, "query key"],
        target: Int[Tensor, "token"],
        vector: Float64[Tensor, "token"],
    ) -> None:
        """Add rows of the map."""
        sums, rows, columns = self._sums, *self._place(strip)
        self._set_blocks(strip, sums.attention_map_mean, sums.attention_map_max)
        sums.map_product[rows] += strip @ vector[columns]
        sums.row_magnitude[rows] += strip.abs().sum(1)
        wanted = target[rows] - self._key
        here = (wanted >= 0) & (wanted < strip.shape[1])
        looked = strip.gather(1, wanted.clamp(0, strip.shape[1] - 1).unsqueeze(1)).squeeze(1)
        sums.target_magnitude[rows] += torch.where(here, looked.abs(), 0)
        # With the keys in reverse, and each row one place further right, a column holds one lag.
        height, width = strip.shape
        sheared = pad(strip.square_().flip(1), (0, height)).flatten()[:-height]
        energy = sheared.unflatten(0, (height, -1)).sum(0)
        lag = self._query - self._key - (width - 1)
        sums.lag_energy[max(0, lag) : lag + len(energy)] += energy[max(0, -lag) :]

    def add_mask(
        self, strip: Float64[Tensor, "query key"], vector: Float64[Tensor, "token"]
    ) -> None:
        """Add rows of the mask."""
        sums, rows, columns = self._sums, *self._place(strip)
        self._set_blocks(strip, sums.attention_mask_mean, sums.attention_mask_max)
        sums.mask_product[rows] += strip @ vector[columns]
        sums.mask_row_sum[rows] += strip.sum(1)

    def _place(self, strip: Float64[Tensor, "query key"]) -> tuple[slice, slice]:
        return (
            slice(self._query, self._query + strip.shape[0]),
            slice(self._key, self._key + strip.shape[1]),
        )

    def _set_blocks(
        self,
        strip: Float64[Tensor, "query key"],
        total: Float64[Tensor, "query_block key_block"],
        largest: Float64[Tensor, "query_block key_block"],
    ) -> None:
        """The sum and the entry of largest magnitude of each block, all of which are in this strip."""
        beyond = [-size % self._block for size in strip.shape]
        whole = pad(strip, (0, beyond[1], 0, beyond[0])) if any(beyond) else strip
        blocks = whole.unflatten(1, (-1, self._block)).unflatten(0, (-1, self._block))
        rows, columns = self._query // self._block, self._key // self._block
        here = slice(rows, rows + blocks.shape[0]), slice(columns, columns + blocks.shape[2])
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
        total[here] = blocks.sum((1, 3))
        largest[here] = torch.where(-low > high, low, high)
