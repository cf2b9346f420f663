"""Reach of a map too long for memory: how many tokens back half of a late query's magnitude extends.

Half of a row is known only after its sum, so this is a second pass. It computes only the tiles in which a late query
reaches its half. In a layer that looks at near tokens these are the diagonal tiles.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ssmlens.names import MAP
from ssmlens.scan.operator import Operator
from ssmlens.scan.spans import tiles

# Rows of a tile that are in float64 at once.
_ROWS = 256


def first_late(tokens: int) -> int:
    """The first of the late queries: the last quarter, ⌈tokens/4⌉ of them."""
    return tokens - -(-tokens // 4)


def late_reach(
    operands: Operator, block: int, magnitude: Mapping[int, Float64[Tensor, "token"]]
) -> Int[Tensor, "token"]:
    """How many tokens back half of each late query's |map| extends.

        min {ℓ : Σ_{i−ℓ ≤ j ≤ i} |map[i, j]| ≥ ½ Σ_j |map[i, j]|}

    Args:
        operands: Bare operands of one sequence.
        block: Tokens of a block; no tile cuts one, as in `spans.tiles`.
        magnitude: By the first key of each tile, every query's sum over that tile's keys: Σ_j |map[i, j]|.

    Returns:
        Tokens, from 0 to i. −1 for a query that is not late, or whose row is zero or not finite.
    """
    tokens, device = operands.tokens, operands.like.device
    late = torch.arange(first_late(tokens), tokens, device=device)
    starts = sorted(magnitude, reverse=True)
    reach = torch.full((tokens,), -1, dtype=torch.long, device=device)
    if not len(late):
        return reach
    backward = torch.stack([magnitude[start][late] for start in starts]).cumsum(0)
    half = backward[-1] / 2
    # The tile in which a row reaches its half, counted back from the diagonal, and the sum of the tiles after it.
    of_tile = (backward >= half).int().argmax(0)
    before = torch.cat([torch.zeros_like(backward[:1]), backward])[of_tile, late - late[0]]
    start = torch.tensor(starts, device=device)[of_tile]
    known = (half > 0) & half.isfinite()
    for queries, keys in tiles(operands, block):
        here = known & (start == keys[0]) & (late >= queries[0]) & (late < queries[1])
        if not bool(here.any()):
            continue
        tile = operands.means((MAP,), queries, keys)[0, 0]
        for n in here.nonzero().flatten().split(_ROWS):
            rows = tile[late[n] - queries[0]].double().abs().flip(1).cumsum(1) + before[n, None]
            reached = (rows >= half[n, None]).int()
            reached[:, -1] = 1  # rounding may leave the sum just below the half
            reach[late[n]] = late[n] - (keys[1] - 1 - reached.argmax(1))
        del tile  # frees its memory before the next one
    return reach
