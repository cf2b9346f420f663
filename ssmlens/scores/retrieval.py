"""Does the layer look where the answer is? Scores on prompts whose answers have a known place."""

import math

import numpy as np
from jaxtyping import Float, Int

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score
from ssmlens.scores.statistics import row_magnitude, target_magnitude

REPEAT = "repeat"
"""The kind of a prompt that is a random token sequence, twice."""


def target_share(
    attention_map: Float[np.ndarray, "query key"], target: Int[np.ndarray, " query"]
) -> float:
    """Share of each query's |map| that falls on its target, mean over the queries that have one.

        mean_i |map[i, target_i]| / Σ_j |map[i, j]|   over i with target_i ≥ 0

    The map is signed, so absolute values: a large negative entry moves as much as a positive one. A
    query whose row is zero looks nowhere and counts as 0.

    Args:
        attention_map: Mean of M over channels (paper eq. 8), zero for key > query.
        target: The position each query must look at, at most the query's own; -1 = none.

    Returns:
        A value in [0, 1]; NaN when no query has a target, or when all their rows are zero.
    """
    return _share(row_magnitude(attention_map), target_magnitude(attention_map, target), target)


def _share(
    magnitude: Float[np.ndarray, " query"],
    hit: Float[np.ndarray, " query"],
    target: Int[np.ndarray, " query"],
) -> float:
    """`target_share` from what each query gives in all and what it gives its target."""
    total, hit = magnitude[target >= 0], hit[target >= 0]
    if not total.any():
        return math.nan
    return float(np.divide(hit, total, out=np.zeros_like(total), where=total > 0).mean())


def checked_target(reading: Reading) -> Int[np.ndarray, " query"]:
    """Where each query of the prompt must look. Raises NotApplicable where none must, or one cannot: it lies ahead."""
    target = reading.target
    if not reading.looks_ahead and (target > np.arange(len(target))).any():
        raise NotApplicable("a query's target lies after it")
    return target


def _copy(reading: Reading) -> Measured:
    if reading.prompt_kind == REPEAT:
        raise NotApplicable("the prompt's targets are of induction: see induction_score")
    return _on_target(reading)


def _induction(reading: Reading) -> Measured:
    _require_repeat(reading)
    return _on_target(reading)


def _on_target(reading: Reading) -> Measured:
    target = checked_target(reading)
    return Measured(_share(reading.row_magnitude, reading.target_magnitude, target))


def _previous_token(reading: Reading) -> Measured:
    _require_repeat(reading)
    if reading.is_reduced:
        raise NotApplicable("reduced maps do not tell how much falls on the token before")
    attention_map = reading.attention_map
    return Measured(target_share(attention_map, np.arange(len(attention_map)) - 1))


def _require_repeat(reading: Reading) -> None:
    if reading.prompt_kind != REPEAT:
        raise NotApplicable("the prompt is not a twice-repeated random sequence")


SCORES.register("copy_score")(
    Score(
        description="share of |map| on the letter to copy",
        measure=_copy,
        reads="targets",
        range=(0.0, 1.0),
    )
)
SCORES.register("induction_score")(
    Score(
        description="share of |map| on the token after this token's earlier occurrence",
        measure=_induction,
        reads="targets",
        range=(0.0, 1.0),
    )
)
SCORES.register("previous_token_score")(
    Score(
        description="share of |map| on the token before, on repeated random sequences",
        measure=_previous_token,
        reads="targets",
        range=(0.0, 1.0),
    )
)
