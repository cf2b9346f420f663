"""Predictions as rows and plain values, cell by cell."""

import math

import pytest

from ssmlens.runs.prediction_table import HEADER, corrected, plain, rows
from ssmlens.runs.validation import Prediction

NONE = math.nan
TOLD = Prediction(
    score="log_scale",
    by_teacher=(0.5, 0.25),
    rho=0.125,
    interval=(-0.5, 0.75),
    p=0.01234,
    partial=-0.3,
    partial_interval=(-0.4, 0.2),
    structure=NONE,
    structure_interval=(NONE, NONE),
    shuffled=0.875,
    regret=(0.0, NONE),
)


def test_rows_have_a_cell_for_each_number():
    header, row = rows([TOLD], [0.04])
    assert header == HEADER
    assert len(set(header)) == len(header), "a frame has a column of each"
    told = dict(zip(header, row, strict=True))
    assert told == {
        "score": "log_scale",
        "ρ": "0.12",
        "95 %": "-0.50..0.75",
        "p": "0.0123",
        "p, Holm": "0.0400",
        "ρ given depth, scale, memory": "-0.30",
        "95 % ": "-0.40..0.20",
        "ρ with real − shuffled": "-",
        "95 %  ": "-",
        "ρ with shuffled": "0.88",
        "top-3 regret": "0.00, -",
    }
    with pytest.raises(ValueError, match="shorter"):
        rows([TOLD], [])


def test_plain_values_are_those_of_the_prediction_and_none_for_nan():
    told = plain(TOLD, 0.04)
    assert told == {
        "score": "log_scale",
        "by_teacher": [0.5, 0.25],
        "rho": 0.125,
        "interval": [-0.5, 0.75],
        "p": 0.01234,
        "partial": -0.3,
        "partial_interval": [-0.4, 0.2],
        "structure": None,
        "structure_interval": [None, None],
        "shuffled": 0.875,
        "regret": [0.0, None],
        "p_holm": 0.04,
    }


def test_p_is_corrected_within_its_family():
    """By Holm: the smallest of two counts twice; a score of no family keeps its own."""
    scores = ("a", "b", "c", "alone")
    predictions = [
        Prediction(**{**vars(TOLD), "score": score, "p": p})
        for score, p in zip(scores, (0.02, 0.3, 0.01, 0.02), strict=True)
    ]
    assert corrected(predictions, [("a", "c"), ("b",)]) == [0.02, 0.3, 0.02, 0.02]
