"""Whether a layer attends to the answer: scores on prompts whose answers have a known position."""

import numpy as np
from jaxtyping import Float, Int

from ssmlens.names import REPEAT
from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score
from ssmlens.scores.statistics import share_of_rows


def target_share(
    on_target: Float[np.ndarray, " query"],
    magnitude: Float[np.ndarray, " query"],
    target: Int[np.ndarray, " query"],
) -> float:
    """Share of each query's |map| on its target, mean over queries with a target.

        mean_i |map[i, target_i]| / Σ_j |map[i, j]|   over i with target_i ≥ 0

    The map is signed, so absolute values are taken: a large negative entry moves as much as a positive one. A
    row of zeros counts as 0.

    Args:
        on_target: |map[i, target_i]| of each query (`statistics.target_magnitude`). The map is the mean of M over
            channels (paper eq. 8).
        magnitude: Σ_j |map[i, j]| of each query (`statistics.row_magnitude`).
        target: The position each query must look at; -1 = none.

    Returns:
        A value in [0, 1]; NaN when no query has a target, or when all their rows are zero.
    """
    asked = target >= 0
    return share_of_rows(on_target[asked], magnitude[asked])


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
    target = require_target(reading)
    return Measured(target_share(reading.target_magnitude, reading.row_magnitude, target))


def _chance_on_target(reading: Reading) -> float:
    """What a uniform row gives its target; also the mean over targets drawn at random, whatever the map."""
    return float((1 / reading.visible[reading.target >= 0]).mean())


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
        formula="of a query's |map|, the share on the token that it must copy; mean over the queries that have one",
        chance=_chance_on_target,
        chance_in_words="1/(i+1) of query i, mean over those queries: a uniform row, or targets drawn at random",
    )
)
SCORES.register("induction_score")(
    Score(
        description="share of |map| on the token after this token's earlier occurrence",
        measure=_induction,
        reads="targets",
        range=(0.0, 1.0),
        formula="on a sequence given twice: of a query's |map|, the share on the token that followed this token the "
        "first time; mean over the second half",
        chance=_chance_on_target,
        chance_in_words="as for copy_score",
    )
)
SCORES.register("previous_token_score")(
    Score(
        description="share of |map| on the token before, on repeated random sequences",
        measure=_previous_token,
        reads="targets",
        range=(0.0, 1.0),
        formula="on a sequence given twice: of a query's |map|, the share on the token before it; mean over all "
        "queries but the first",
        chance=lambda reading: float((1 / reading.visible[1:]).mean()),
        chance_in_words="1/(i+1) of query i, mean over i > 0: a uniform row",
    )
)
