"""Predictions as a table and as plain values: what the command and the experiment print."""

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
    """The p of each prediction, by Holm's method within its family of scores; one of no family stays as it is."""
    found = [it.p for it in predictions]
    for family in families:
        places = [k for k, it in enumerate(predictions) if it.score in family]
        for k, p in zip(places, holm([found[k] for k in places]), strict=True):
            found[k] = p
    return found


def rows(predictions: Sequence[Prediction], adjusted: Sequence[float]) -> list[list[str]]:
    """A header, then a row a prediction; of several teachers the pooled numbers, and each one's regret.

    Args:
        predictions: The predictions.
        adjusted: Of `corrected`.
    """
    return [
        HEADER,
        *(
            [
                it.score,
                number(it.rho),
                span(it.interval),
                number(it.p, 4),
                number(p, 4),
                number(it.partial),
                span(it.partial_interval),
                number(it.structure),
                span(it.structure_interval),
                number(it.shuffled),
                ", ".join(number(regret) for regret in it.regret),
            ]
            for it, p in zip(predictions, adjusted, strict=True)
        ),
    ]


def plain(prediction: Prediction, adjusted: float) -> dict[str, Any]:
    """A prediction in plain values, None for NaN."""
    return without_nan(dataclasses.asdict(prediction) | {"p_holm": adjusted})


def number(value: float, places: int = 2) -> str:
    """A number for a table; "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.{places}f}"


def span(interval: tuple[float, float]) -> str:
    """An interval for a table."""
    return "-" if math.isnan(interval[0]) else f"{interval[0]:.2f}..{interval[1]:.2f}"
