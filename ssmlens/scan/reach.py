"""How far back late queries look in a map that is too long to hold: the lag that half of a row's magnitude reaches.

The half of a row is known only after its sum, so this is a second pass. It computes only the tiles in which the half of
a late query lies: the diagonal ones, in a layer that looks at what is near.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ssmlens.names import MAP
from ssmlens.scan.operator import Operator
from ssmlens.scan.spans import tiles

# Rows of a tile that are summed in float64 at once.
_ROWS = 256


def first_late(tokens: int) -> int:
    """The first of the late queries: the last quarter, ⌈tokens/4⌉ of them."""
    return tokens - -(-tokens // 4)


def late_reach(
    operands: Operator, block: int, magnitude: Mapping[int, Float64[Tensor, "token"]]
) -> Int[Tensor, "token"]:
    """How many tokens back half of each late query's |map| reaches.

        min {ℓ : Σ_{i−ℓ ≤ j ≤ i} |map[i, j]| ≥ ½ Σ_j |map[i, j]|}

    Args:
        operands: Bare operands of one sequence.
        block: The block of tokens that no tile cuts, as in `spans.tiles`.
        magnitude: For the first key of each tile, what every query gives that tile's keys in all: Σ_j |map[i, j]|.

    Returns:
        Tokens, from 0 to i; −1 for a query that is not late, whose row is zero, or is not finite.
    """
    tokens, device = operands.tokens, operands.like.device
    late = torch.arange(first_late(tokens), tokens, device=device)
    starts = sorted(magnitude, reverse=True)
    found = torch.full((tokens,), -1, dtype=torch.long, device=device)
    if not len(late):
        return found
    backward = torch.stack([magnitude[start][late] for start in starts]).cumsum(0)
    half = backward[-1] / 2
    # Which tile of a row, from the diagonal back, reaches half of it, and what those behind it gave already.
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
            reached[:, -1] = 1  # where rounding leaves the sum short of the half that it makes up
            found[late[n]] = late[n] - (keys[1] - 1 - reached.argmax(1))
        del tile  # before the next one is made
    return found
