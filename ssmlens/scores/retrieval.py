"""Whether a layer attends to the answer: scores on prompts whose answers have a known position."""

import numpy as np
from jaxtyping import Float, Int

from ssmlens.names import REPEAT
from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score
from ssmlens.scores.statistics import row_magnitude, share_of_rows, target_magnitude


def target_share(
    attention_map: Float[np.ndarray, "query key"], target: Int[np.ndarray, " query"]
) -> float:
    """Share of each query's |map| on its target, mean over queries with a target.

        mean_i |map[i, target_i]| / Σ_j |map[i, j]|   over i with target_i ≥ 0

    The map is signed, so absolute values are taken: a large negative entry moves as much as a positive one. A
    row of zeros counts as 0.

    Args:
        attention_map: Mean of M over channels (paper eq. 8), zero for key > query.
        target: The key that each query must attend to, not after the query; -1 for none.

    Returns:
        A value in [0, 1]; NaN when no query has a target, or when all their rows are zero.
    """
    has_target = target >= 0
    hit = target_magnitude(attention_map, target)
    return share_of_rows(hit[has_target], row_magnitude(attention_map)[has_target])


def require_target(reading: Reading) -> Int[np.ndarray, " query"]:
    """The prompt's targets. Raises NotApplicable if there are none, or one lies after its query in a causal layer."""
    target = reading.target
    if not reading.looks_ahead and (target > np.arange(len(target))).any():
        raise NotApplicable("a query's target lies after it")
    return target


def _copy(reading: Reading) -> Measured:
    if reading.prompt_kind == REPEAT:
        raise NotApplicable("the prompt's targets are those of induction: see induction_score")
    return _on_target(reading)


def _induction(reading: Reading) -> Measured:
    _require_repeat(reading)
    return _on_target(reading)


def _on_target(reading: Reading) -> Measured:
    rows = require_target(reading) >= 0
    return Measured(share_of_rows(reading.target_magnitude[rows], reading.row_magnitude[rows]))


def _previous_token(reading: Reading) -> Measured:
    _require_repeat(reading)
    return Measured(share_of_rows(reading.previous_magnitude[1:], reading.row_magnitude[1:]))


def _require_repeat(reading: Reading) -> None:
    if reading.prompt_kind != REPEAT:
        raise NotApplicable("the prompt is not a repeated random sequence")


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
