"""What falls on the first token, whatever it is: an attention sink."""

import math

import numpy as np
from jaxtyping import Float

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.retrieval import target_share
from ssmlens.scores.score import SCORES, Measured, Score


def sink(attention_map: Float[np.ndarray, "query key"]) -> float:
    """Share of each later query's |map| that falls on the first token.

        mean_i |map[i, 0]| / Σ_j |map[i, j]|   over i > 0

    A query whose row is zero looks nowhere and counts as 0. Chance: a uniform map has mean_i 1/(i + 1), about
    ln(T)/T.

    Args:
        attention_map: Mean of M over channels (paper eq. 8), zero for key > query.

    Returns:
        A value in [0, 1]; NaN for one token, or when all later rows are zero.
    """
    later = np.arange(len(attention_map)) > 0
    return target_share(attention_map, np.where(later, 0, -1))


def delta_sink(delta: Float[np.ndarray, "token head"]) -> float:
    """Share of the first token in the sum of Δ over tokens, mean over heads: how much longer its step is.

        mean_h Δ[0, h] / Σ_t Δ[t, h]

    A head whose Δ is zero throughout counts as 0. Chance: 1/T where every token has the same Δ.

    Args:
        delta: The step after softplus and clamp.

    Returns:
        A value in [0, 1]; NaN when Δ is zero throughout.
    """
    total = delta.sum(axis=0, dtype=np.float64)
    if not total.any():
        return math.nan
    return float(np.divide(delta[0], total, out=np.zeros_like(total), where=total > 0).mean())


def _measure(reading: Reading) -> Measured:
    if reading.is_reduced:
        raise NotApplicable("reduced maps do not tell how much falls on the first token")
    return Measured(sink(reading.attention_map))


SCORES.register("sink")(
    Score(
        description="share of |map| on the first token",
        measure=_measure,
        reads="maps",
        range=(0.0, 1.0),
    )
)
SCORES.register("delta_sink")(
    Score(
        description="share of the first token in the sum of Δ",
        measure=lambda reading: Measured(delta_sink(reading.operand("delta"))),
        reads="maps",
        range=(0.0, 1.0),
    )
)
