"""How far back a layer looks: the lag that half of a row's magnitude reaches."""

import math

import numpy as np
from jaxtyping import Float

from ssmlens.scores.score import SCORES, Measured, Score


def receptive_field(reach: Float[np.ndarray, " query"]) -> float:
    """How many tokens back half of a late query's |map| reaches.

        mean_i min {ℓ : Σ_{i−ℓ ≤ j ≤ i} |map[i, j]| ≥ ½ Σ_j |map[i, j]|}   over late queries i

    Late queries are the last quarter, ⌈T/4⌉ of them; a row of zeros is left out. A layer that looks at its own token
    alone has 0, one that copies from lag ℓ has ℓ. Chance: a uniform row of i + 1 entries has ⌈(i + 1)/2⌉ − 1, so a
    uniform map about 7T/16. Where the layer looks ahead, the row's tokens within ℓ on either side count.

    Args:
        reach: How far back each query reaches, −1 where it does not count (`statistics.reach`). The map is the mean of
            M over channels (paper eq. 8).

    Returns:
        Tokens, from 0 to T − 1; NaN when all late rows are zero.
    """
    counted = reach[reach >= 0]
    return float(counted.mean()) if len(counted) else math.nan


SCORES.register("receptive_field")(
    Score(
        description="tokens away that half of a late query's |map| reaches",
        measure=lambda reading: Measured(receptive_field(reading.reach)),
        reads="maps",
        range=(0.0, math.inf),
        unit="tokens",
    )
)
