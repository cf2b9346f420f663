"""How far back a layer looks: the lag that half of a row's magnitude reaches."""

import math

import numpy as np
from jaxtyping import Float

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score


def receptive_field(attention_map: Float[np.ndarray, "query key"]) -> float:
    """How many tokens back half of a late query's |map| reaches.

        mean_i min {ℓ : Σ_{i−ℓ ≤ j ≤ i} |map[i, j]| ≥ ½ Σ_j |map[i, j]|}   over late queries i

    Late queries are the last quarter, ⌈T/4⌉ of them; a row of zeros is left out. A layer that looks at its own token
    alone has 0, one that copies from lag ℓ has ℓ. Chance: a uniform row of i + 1 entries has ⌈(i + 1)/2⌉ − 1, so a
    uniform map about 7T/16. Where the layer looks ahead, the row's tokens within ℓ on either side count.

    Args:
        attention_map: Mean of M over channels (paper eq. 8); in a causal layer zero for key > query.

    Returns:
        Tokens, from 0 to T − 1; NaN when all late rows are zero.
    """
    tokens = len(attention_map)
    reaches = []
    for query in range(tokens - math.ceil(tokens / 4), tokens):
        row = np.abs(attention_map[query])
        near = np.zeros(max(query + 1, tokens - query))  # by distance
        near[: query + 1] += row[query::-1]
        near[1 : tokens - query] += row[query + 1 :]
        so_far = np.cumsum(near, dtype=np.float64)
        if so_far[-1] > 0:
            reaches.append(int(np.argmax(so_far >= so_far[-1] / 2)))
    return float(np.mean(reaches)) if reaches else math.nan


def _measure(reading: Reading) -> Measured:
    if reading.is_reduced:
        raise NotApplicable("reduced maps do not tell how far back a row reaches")
    return Measured(receptive_field(reading.attention_map))


SCORES.register("receptive_field")(
    Score(
        description="tokens away that half of a late query's |map| reaches",
        measure=_measure,
        reads="maps",
        range=(0.0, math.inf),
        unit="tokens",
    )
)
