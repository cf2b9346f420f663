"""How much a layer remembers: the mean of its attention mask, and its memory in tokens."""

import math

import numpy as np
from jaxtyping import Float

from ssmlens.scan.reach import first_late
from ssmlens.scores.score import SCORES, Measured, Score


def mask_ones(row_sum: Float[np.ndarray, " query"], looks_ahead: bool = False) -> float:
    """Mean of the attention mask over j ≤ i: 1 for a layer that forgets nothing (paper §3).

    It falls with length: compare layers at equal length.

    Args:
        row_sum: Σ_j mask[i, j] of each query (`statistics.mask_row_sum`). The mask is the mean over channels and
            states of exp(A (S_i − S_j)), j ≤ i.
        looks_ahead: Whether the mean is over all pairs.

    Returns:
        A value in (0, 1].
    """
    tokens = len(row_sum)
    return float(row_sum.sum() / (tokens * (tokens if looks_ahead else (tokens + 1) / 2)))


def memory_length(row_sum: Float[np.ndarray, " query"]) -> float:
    """How many tokens a late query still holds: mean over late queries i of Σ_j mask[i, j].

    Late queries are the last quarter, ⌈T/4⌉ of them.

    Args:
        row_sum: As in `mask_ones`.

    Returns:
        Tokens, at most T.
    """
    return float(row_sum[first_late(len(row_sum)) :].mean())


SCORES.register("mask_ones")(
    Score(
        description="mean of the attention mask over the past: 1 = forgets nothing",
        measure=lambda reading: Measured(mask_ones(reading.mask_row_sum, reading.looks_ahead)),
        reads="maps",
        range=(0.0, 1.0),
        formula="what decay alone leaves of a token at a later query; mean over all such pairs: it falls with length",
        chance_in_words="none: it says what a layer keeps, not where it looks",
    )
)
SCORES.register("memory_length")(
    Score(
        description="tokens that a query in the last quarter of the prompt still holds",
        measure=lambda reading: Measured(memory_length(reading.mask_row_sum)),
        reads="maps",
        range=(0.0, math.inf),
        unit="tokens",
        formula="the sum of a query's row of the mask; mean over the last quarter of the queries",
        chance_in_words="none; about 7T/8 where nothing is forgotten",
    )
)
