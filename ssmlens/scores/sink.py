"""Attention sinks: the share of the first token and of separators, whatever their content.

`ssmlens.store.separators` defines separators. `sink` is the share of both, `separator_sink` that of separators after
the first token; their difference is the first token's share.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score
from ssmlens.scores.statistics import (
    first_magnitude,
    row_magnitude,
    separator_magnitude,
    share_of_rows,
)


def sink(
    attention_map: Float[np.ndarray, "query key"], separator: Bool[np.ndarray, " key"] | None = None
) -> float:
    """Share of each later query's |map| on the first token and on separators before the query.

        mean_i (|map[i, 0]| + Σ_j |map[i, j]|) / Σ_j |map[i, j]|   over i > 0; above, over separators 0 < j < i

    A separator's own entry map[i, i] is not counted. A row of zeros counts as 0. Chance: a
    uniform map without separators has mean_i 1/(i + 1), about ln(T)/T; a share s of separators adds about s.

    Args:
        attention_map: Mean of M over channels (paper eq. 8), zero for key > query.
        separator: Which tokens are separators; None: none.

    Returns:
        A value in [0, 1]; NaN for one token, or when all later rows are zero.
    """
    hit = first_magnitude(attention_map)
    if separator is not None:
        hit = hit + separator_magnitude(attention_map, separator)
    return share_of_rows(hit[1:], row_magnitude(attention_map)[1:])


def separator_sink(
    attention_map: Float[np.ndarray, "query key"], separator: Bool[np.ndarray, " key"]
) -> float:
    """The part of `sink` on separators after the first token.

        mean_i Σ_j |map[i, j]| / Σ_j |map[i, j]|   over i > 0; above, over separators 0 < j < i

    Chance: a uniform map has about the share of separators among the tokens.

    Args:
        attention_map: As in `sink`.
        separator: Which tokens are separators.

    Returns:
        A value in [0, 1]; NaN for one token, or when all later rows are zero.
    """
    hit = separator_magnitude(attention_map, separator)
    return share_of_rows(hit[1:], row_magnitude(attention_map)[1:])


def delta_share(
    delta: Float[np.ndarray, "token head"], chosen: Bool[np.ndarray, " token"]
) -> float:
    """Share of selected tokens in the sum of Δ over tokens, mean over heads: how much longer their steps are.

        mean_h Σ_{t chosen} Δ[t, h] / Σ_t Δ[t, h]

    A head whose Δ is zero throughout counts as 0. Chance: the share of chosen tokens, where every token has the same Δ.

    Args:
        delta: The step after softplus and clamp.
        chosen: The selected tokens: in `delta_sink` the first token and separators, in `delta_separator_sink` the
            separators after the first token.

    Returns:
        A value in [0, 1]; NaN when Δ is zero throughout.
    """
    total = delta.sum(axis=0, dtype=np.float64)
    if not total.any():
        return math.nan
    part = delta[chosen].sum(axis=0, dtype=np.float64)
    return float(np.divide(part, total, out=np.zeros_like(total), where=total > 0).mean())


def _sink(reading: Reading) -> Measured:
    hit = reading.first_magnitude + reading.separator_magnitude
    return Measured(share_of_rows(hit[1:], reading.row_magnitude[1:]))


def _separator_sink(reading: Reading) -> Measured:
    magnitude = reading.row_magnitude
    _later_separators(reading)
    return Measured(share_of_rows(reading.separator_magnitude[1:], magnitude[1:]))


def _delta_sink(reading: Reading) -> Measured:
    tokens = reading.separator.copy()
    tokens[0] = True
    return Measured(delta_share(reading.operand("delta"), tokens))


def _delta_separator_sink(reading: Reading) -> Measured:
    delta = reading.operand("delta")
    return Measured(delta_share(delta, _later_separators(reading)))


def _later_separators(reading: Reading) -> Bool[np.ndarray, " token"]:
    """The separators after the first token. Raises NotApplicable if there is none."""
    separator = reading.separator.copy()
    separator[0] = False
    if not separator.any():
        raise NotApplicable("the prompt has no separator after its first token")
    return separator


for _name, _description, _measure in (
    (
        "sink",
        "share of |map| on the first token and on separators: punctuation, line breaks, special tokens, a task's marks",
        _sink,
    ),
    ("separator_sink", "share of |map| on separators after the first token", _separator_sink),
    (
        "delta_sink",
        "share of the first token and of separators in the sum of Δ",
        _delta_sink,
    ),
    (
        "delta_separator_sink",
        "share of separators after the first token in the sum of Δ",
        _delta_separator_sink,
    ),
):
    SCORES.register(_name)(
        Score(description=_description, measure=_measure, reads="maps", range=(0.0, 1.0))
    )
