"""How far back a layer attends: the lag that half of a row's magnitude reaches."""

import math

import numpy as np
from jaxtyping import Float

from ssmlens.scores.score import SCORES, Measured, Score
from ssmlens.scores.statistics import reach


def receptive_field(attention_map: Float[np.ndarray, "query key"]) -> float:
    """How many tokens back half of a late query's |map| reaches.

        mean_i min {ℓ : Σ_{i−ℓ ≤ j ≤ i} |map[i, j]| ≥ ½ Σ_j |map[i, j]|}   over late queries i

    Late queries are the last quarter, ⌈T/4⌉ of them; rows of zeros are left out. A layer that attends only to its own
    token has 0, one that copies from lag ℓ has ℓ. Chance: a uniform row of i + 1 entries has ⌈(i + 1)/2⌉ − 1, so a
    uniform map about 7T/16. If the layer looks ahead, the row's tokens within ℓ on either side count.

    Args:
        attention_map: Mean of M over channels (paper eq. 8); in a causal layer zero for key > query.

    Returns:
        Tokens, from 0 to T − 1; NaN when all late rows are zero.
    """
    return _mean_reach(reach(attention_map))


def _mean_reach(reaches: Float[np.ndarray, " query"]) -> float:
    """`receptive_field` from each query's reach; −1 is left out."""
    counted = reaches[reaches >= 0]
    return float(counted.mean()) if len(counted) else math.nan


SCORES.register("receptive_field")(
    Score(
        description="tokens away that half of a late query's |map| reaches",
        measure=lambda reading: Measured(_mean_reach(reading.reach)),
        reads="maps",
        range=(0.0, math.inf),
        unit="tokens",
    )
)
