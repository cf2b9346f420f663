"""How far back a layer attends: the lag that half of a row's magnitude reaches."""

import math

import numpy as np
from jaxtyping import Float

from ssmlens.scan.reach import first_late
from ssmlens.scores.reading import Reading
from ssmlens.scores.score import SCORES, Measured, Score


def receptive_field(reach: Float[np.ndarray, " query"]) -> float:
    """How many tokens back half of a late query's |map| reaches.

        mean_i min {ℓ : Σ_{i−ℓ ≤ j ≤ i} |map[i, j]| ≥ ½ Σ_j |map[i, j]|}   over late queries i

    Late queries are the last quarter, ⌈T/4⌉ of them; rows of zeros are left out. A layer that attends only to its own
    token has 0, one that copies from lag ℓ has ℓ. Chance: a uniform row of i + 1 entries has ⌈(i + 1)/2⌉ − 1, so a
    uniform map about 7T/16. If the layer looks ahead, the row's tokens within ℓ on either side count.

    Args:
        reach: How far back each query reaches, −1 where it does not count (`statistics.reach`). The map is the mean of
            M over channels (paper eq. 8).

    Returns:
        Tokens, from 0 to T − 1; NaN when all late rows are zero.
    """
    counted = reach[reach >= 0]
    return float(counted.mean()) if len(counted) else math.nan


def _chance(reading: Reading) -> float:
    """The score of uniform rows."""
    tokens = len(reading.visible)
    query = np.arange(first_late(tokens), tokens)
    visible = reading.visible[query]
    half = -(-visible // 2)  # how many tokens are half of a row
    ahead = visible - 1 - query  # how many lie ahead
    return float(np.maximum(half // 2, half - 1 - ahead).mean())


SCORES.register("receptive_field")(
    Score(
        description="tokens away that half of a late query's |map| reaches",
        measure=lambda reading: Measured(receptive_field(reading.reach)),
        reads="maps",
        range=(0.0, math.inf),
        unit="tokens",
        formula="how many tokens back half of a query's |map| reaches; mean over the last quarter of the queries",
        chance=_chance,
        chance_in_words="⌈(i+1)/2⌉ − 1 of query i, about 7T/16: a uniform row",
    )
)
