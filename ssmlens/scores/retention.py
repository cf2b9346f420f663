"""How much a layer remembers of the token that a query must attend to."""

import numpy as np
from jaxtyping import Float, Int

from ssmlens.scores.reading import Reading
from ssmlens.scores.retrieval import require_target
from ssmlens.scores.score import SCORES, Measured, Score

_MAX_ENTRIES = 2**24  # of a block [target head state]

# Replaces a log decay of −∞, which forgets everything: its exponential is 0, and differences of sums stay finite.
_FORGETS = -1e4


def retention(
    log_decay: Float[np.ndarray, "token head"] | Float[np.ndarray, "token head state"],
    target: Int[np.ndarray, " token"],
) -> float:
    """Share of the target's write that decay leaves at the query, mean over queries with a target.

        mean_i mean_h Π_{t < m ≤ i} α[m, h],   t = target_i,   over i with target_i ≥ 0

    α = exp(ΔA) in a decay scan; the mean is then over states too. In a delta rule later writes also erase, which is not
    counted. Chance: none; 1 for a layer that forgets nothing, whatever it attends to.

    Args:
        log_decay: log α ≤ 0.
        target: The key that each query must attend to, not after the query; -1 for none.

    Returns:
        A value in [0, 1].
    """
    total = np.cumsum(np.maximum(log_decay, _FORGETS), axis=0, dtype=np.float64)
    (queries,) = np.nonzero(target >= 0)
    return _mean(total, np.ones(()), queries, target[queries])


def retention_of_scan(
    delta: Float[np.ndarray, "token head"],
    A: Float[np.ndarray, " head"] | Float[np.ndarray, "head state"],
    target: Int[np.ndarray, " token"],
) -> float:
    """`retention` for log α = ΔA, without an array of size token · head · state."""
    total = np.cumsum(delta, axis=0, dtype=np.float64)
    (queries,) = np.nonzero(target >= 0)
    return _mean(total if A.ndim == 1 else total[..., None], A, queries, target[queries])


def _mean(
    total: Float[np.ndarray, "token ..."],
    rate: Float[np.ndarray, "..."],
    queries: Int[np.ndarray, " target"],
    keys: Int[np.ndarray, " target"],
) -> float:
    """Mean of exp((total[query] − total[key]) · rate)."""
    entries = int(np.prod(np.broadcast_shapes(total.shape[1:], rate.shape)))
    step = max(1, _MAX_ENTRIES // entries)
    remaining = 0.0
    for first in range(0, len(queries), step):
        at = slice(first, first + step)
        remaining += float(np.exp((total[queries[at]] - total[keys[at]]) * rate).sum())
    return remaining / (entries * len(queries))


def _measure(reading: Reading) -> Measured:
    target = require_target(reading)
    if reading.has("attention_mask"):
        (queries,) = np.nonzero(target >= 0)
        remaining = reading.attention_mask[queries, target[queries]]
        return Measured(float(remaining.mean(dtype=np.float64)))
    if reading.has("A"):
        delta, A = reading.operand("delta"), reading.weight("A")
        return Measured(retention_of_scan(delta, A, target))
    return Measured(retention(reading.log_decay, target))


SCORES.register("retention")(
    Score(
        description="share of what a query's target wrote that decay has left at the query",
        measure=_measure,
        reads="targets",
        range=(0.0, 1.0),
        formula="of what a query's target wrote, the share that decay has left at the query; mean over queries with a "
        "target, heads and states",
        chance_in_words="none: it says what a layer keeps, not where it looks",
    )
)
