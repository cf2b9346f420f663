"""How much a layer remembers: the mean of its attention mask, and its memory in tokens."""

import math

import numpy as np
from jaxtyping import Float

from ssmlens.errors import UsageError
from ssmlens.scan.reach import first_late
from ssmlens.scores.score import SCORES, Measured, Score
from ssmlens.scores.statistics import mask_row_sum


def mask_ones(attention_mask: Float[np.ndarray, "query key"], window: int | None = None) -> float:
    """Mean of the attention mask over j ≤ i: 1 for a layer that forgets nothing (paper §3).

    It falls with length, so compare layers at equal length, or prompts of unequal length within a
    window.

    Args:
        attention_mask: Mean over channels and states of exp(A (S_i − S_j)), j ≤ i.
        window: Only pairs with i − j < window; None for all of j ≤ i.

    Returns:
        A value in (0, 1].

    Raises:
        UsageError: The window is less than one token.
    """
    if window is not None and window < 1:
        raise UsageError(f"the window is {window} tokens: pass at least 1")
    tokens = len(attention_mask)
    reach = tokens if window is None else min(window, tokens)
    seen = np.tri(tokens, dtype=bool) & ~np.tri(tokens, k=-reach, dtype=bool)
    return float(np.mean(attention_mask, where=seen, dtype=np.float64))


def _mean_of_rows(row_sum: Float[np.ndarray, " query"], looks_ahead: bool) -> float:
    """`mask_ones` without a window, from the mask's row sums; over all pairs if the layer looks ahead."""
    tokens = len(row_sum)
    return float(row_sum.sum() / (tokens * (tokens if looks_ahead else (tokens + 1) / 2)))


def memory_length(attention_mask: Float[np.ndarray, "query key"]) -> float:
    """How many tokens a late query remembers: mean over late queries i of Σ_j mask[i, j].

    Late queries are the last quarter, ⌈T/4⌉ of them.

    Args:
        attention_mask: Mean over channels and states of exp(A (S_i − S_j)), zero for j > i.

    Returns:
        Tokens, at most T.
    """
    return _mean_of_late(mask_row_sum(attention_mask))


def _mean_of_late(row_sum: Float[np.ndarray, " query"]) -> float:
    """`memory_length` from the mask's row sums."""
    return float(row_sum[first_late(len(row_sum)) :].mean())


SCORES.register("mask_ones")(
    Score(
        description="mean of the attention mask over the past: 1 = forgets nothing",
        measure=lambda reading: Measured(_mean_of_rows(reading.mask_row_sum, reading.looks_ahead)),
        reads="maps",
        range=(0.0, 1.0),
    )
)
SCORES.register("memory_length")(
    Score(
        description="tokens that a query in the last quarter of the prompt still holds",
        measure=lambda reading: Measured(_mean_of_late(reading.mask_row_sum)),
        reads="maps",
        range=(0.0, math.inf),
        unit="tokens",
    )
)
