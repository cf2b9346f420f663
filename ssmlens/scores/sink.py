"""Attention sinks: the share of the first token and of separators, whatever their content.

`ssmlens.store.separators` defines separators. `sink` is the share of both, `separator_sink` that of separators after
the first token; their difference is the first token's share.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score
from ssmlens.scores.statistics import share_of_rows


def sink(
    on_first: Float[np.ndarray, " query"],
    on_separators: Float[np.ndarray, " query"],
    magnitude: Float[np.ndarray, " query"],
) -> float:
    """Share of each later query's |map| on the first token and on separators before the query.

        mean_i (|map[i, 0]| + Σ_j |map[i, j]|) / Σ_j |map[i, j]|   over i > 0; above, over separators 0 < j < i

    A separator's own entry map[i, i] is not counted. A row of zeros counts as 0. Chance: a
    uniform map without separators has mean_i 1/(i + 1), about ln(T)/T; a share s of separators adds about s.

    Args:
        on_first: |map[i, 0]| of each query (`statistics.first_magnitude`). The map is the mean of M over channels
            (paper eq. 8).
        on_separators: What each query gives separators (`statistics.separator_magnitude`).
        magnitude: Σ_j |map[i, j]| of each query (`statistics.row_magnitude`).

    Returns:
        A value in [0, 1]; NaN for one token, or when all later rows are zero.
    """
    return share_of_rows((on_first + on_separators)[1:], magnitude[1:])


def separator_sink(
    on_separators: Float[np.ndarray, " query"], magnitude: Float[np.ndarray, " query"]
) -> float:
    """The part of `sink` on separators after the first token.

        mean_i Σ_j |map[i, j]| / Σ_j |map[i, j]|   over i > 0; above, over separators 0 < j < i

    Chance: a uniform map has about the share of separators among the tokens.

    Args:
        on_separators: As in `sink`.
        magnitude: As in `sink`.

    Returns:
        A value in [0, 1]; NaN for one token, or when all later rows are zero.
    """
    return share_of_rows(on_separators[1:], magnitude[1:])


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
    on_first, on_separators = reading.first_magnitude, reading.separator_magnitude
    return Measured(sink(on_first, on_separators, reading.row_magnitude))


def _separator_sink(reading: Reading) -> Measured:
    magnitude = reading.row_magnitude
    _later_separators(reading)
    return Measured(separator_sink(reading.separator_magnitude, magnitude))


def _delta_sink(reading: Reading) -> Measured:
    tokens = reading.separator.copy()
    tokens[0] = True
    return Measured(delta_share(reading.operand("delta"), tokens))


def _delta_separator_sink(reading: Reading) -> Measured:
    delta = reading.operand("delta")
    return Measured(delta_share(delta, _later_separators(reading)))


def _chance_of_sink(reading: Reading) -> float:
    return _chance_of_separators(reading) + float((1 / reading.visible[1:]).mean())


def _chance_of_separators(reading: Reading) -> float:
    """What a uniform row gives the separators between the first token and itself, mean over i > 0."""
    between = np.cumsum(_separators_after_first(reading))[:-1]  # those j < i, of i > 0
    return float((between / reading.visible[1:]).mean())


def _chance_of_delta_sink(reading: Reading) -> float:
    return _chance_of_delta_separators(reading) + 1 / len(reading.separator)


def _chance_of_delta_separators(reading: Reading) -> float:
    return float(_separators_after_first(reading).mean())


def _separators_after_first(reading: Reading) -> Bool[np.ndarray, " token"]:
    separator = reading.separator.copy()
    separator[0] = False
    return separator


def _later_separators(reading: Reading) -> Bool[np.ndarray, " token"]:
    """The separators after the first token. Raises NotApplicable where there is none."""
    separator = _separators_after_first(reading)
    if not separator.any():
        raise NotApplicable("the prompt has no separator after its first token")
    return separator


_TABLE = {
    "sink": (
        "share of |map| on the first token and on separators: punctuation, line breaks, special tokens, a task's marks",
        _sink,
        "of a query's |map|, the share on the first token and on separators before the query; mean over i > 0",
        _chance_of_sink,
        "(1 + separators before query i)/(i+1), mean over i > 0: a uniform row",
    ),
    "separator_sink": (
        "share of |map| on separators after the first token",
        _separator_sink,
        "the part of sink that falls on separators after the first token",
        _chance_of_separators,
        "(separators before query i)/(i+1), mean over i > 0",
    ),
    "delta_sink": (
        "share of the first token and of separators in the sum of Δ",
        _delta_sink,
        "the first token's and separators' share in the sum of Δ over tokens; mean over heads",
        _chance_of_delta_sink,
        "the share of these tokens among all: Δ is the same everywhere",
    ),
    "delta_separator_sink": (
        "share of separators after the first token in the sum of Δ",
        _delta_separator_sink,
        "the share in the sum of Δ of separators after the first token; mean over heads",
        _chance_of_delta_separators,
        "the share of these tokens among all",
    ),
}
for _name, (_description, _measure, _formula, _chance, _in_words) in _TABLE.items():
    SCORES.register(_name)(
        Score(
            description=_description,
            measure=_measure,
            reads="maps",
            range=(0.0, 1.0),
            formula=_formula,
            chance=_chance,
            chance_in_words=_in_words,
        )
    )
