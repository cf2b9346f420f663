"""Predictions as a table and as plain values, for the command and the experiment."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ssmlens.files.strict_json import without_nan
from ssmlens.runs.rank_statistics import holm
from ssmlens.runs.validation import Prediction

HEADER = [
    "score",
    "ρ",
    "95 %",
    "p",
    "p, Holm",
    "ρ given depth, scale, memory",
    "95 % ",
    "ρ with real − shuffled",
    "95 %  ",
    "ρ with shuffled",
    "top-3 regret",
]


def corrected(predictions: Sequence[Prediction], families: Sequence[Sequence[str]]) -> list[float]:
    """Correct the p of each prediction by Holm's method within its family of scores; one without family stays."""
    values = [prediction.p for prediction in predictions]
    for family in families:
        places = [k for k, prediction in enumerate(predictions) if prediction.score in family]
        for k, p in zip(places, holm([values[k] for k in places]), strict=True):
            values[k] = p
    return values


def rows(predictions: Sequence[Prediction], adjusted: Sequence[float]) -> list[list[str]]:
    """Return a header, then one row per prediction; with several teachers the pooled numbers, and each one's regret.

    Args:
        predictions: The predictions.
        adjusted: Their p values from `corrected`.
    """
    return [
        HEADER,
        *(
            [
                prediction.score,
                number(prediction.rho),
                span(prediction.interval),
                number(prediction.p, 4),
                number(p, 4),
                number(prediction.partial),
                span(prediction.partial_interval),
                number(prediction.structure),
                span(prediction.structure_interval),
                number(prediction.shuffled),
                ", ".join(number(regret) for regret in prediction.regret),
            ]
            for prediction, p in zip(predictions, adjusted, strict=True)
        ),
    ]


def plain(prediction: Prediction, adjusted: float) -> dict[str, Any]:
    """A prediction in plain values, None for NaN."""
    return without_nan(dataclasses.asdict(prediction) | {"p_holm": adjusted})


def number(value: float, places: int = 2) -> str:
    """Format a number for a table; "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.{places}f}"


def span(interval: tuple[float, float]) -> str:
    """Format an interval for a table."""
    return "-" if math.isnan(interval[0]) else f"{interval[0]:.2f}..{interval[1]:.2f}"
