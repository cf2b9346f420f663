"""What README.md says beside the statistics of PREREGISTERED.md: numbers that describe a teacher and decide nothing."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analyses.ranking.analysis import Teacher, spread_between_seeds
from analyses.ranking.experiment import PRIMARY, SECONDARY
from ssmlens.runs.prediction_table import number
from ssmlens.runs.rank_statistics import correlation
from ssmlens.runs.validation import LayerTable

_FIRST_BY = (PRIMARY, *SECONDARY, "ablation")


class Ends(NamedTuple):
    """The best and the median layer of a teacher.

    Attributes:
        layer: Block index of the layer whose students reach most.
        best: What they reach, mean over rates and seeds.
        median: The median over layers of the same.
    """

    layer: int
    best: float
    median: float


def best_and_median(table: LayerTable) -> Ends:
    """The best layer of a table, what its students reach, and the median over layers."""
    outcome = table.real.mean(1)
    place = int(outcome.argmax())
    return Ends(int(table.layer[place]), float(outcome[place]), float(np.median(outcome)))


def first_layer(table: LayerTable, score: str) -> int | None:
    """The layer that a score puts first; None if no layer has the score."""
    values = table.scores.get(score, np.array([math.nan]))
    return int(table.layer[np.nanargmax(values)]) if np.isfinite(values).any() else None


def without_best(table: LayerTable, score: str) -> float:
    """Spearman's ρ of a score and the outcome over all layers but the one whose students reach most."""
    outcome = table.real.mean(1)
    others = np.arange(len(outcome)) != outcome.argmax()
    return correlation(table.scores[score][others], outcome[others])


def accuracy_by_step(teacher: Teacher, letters: int = 64) -> dict[int, float]:
    """The share of letters that a teacher repeats correctly, by step of its training."""
    curves = teacher.record["run"]["eval"].get(str(letters), {"step": [], "char": []})
    return dict(zip(curves["step"], curves["char"], strict=True))


def course_rows(teachers: Sequence[Teacher]) -> list[list[str]]:
    """A header of steps, then each teacher's `accuracy_by_step`."""
    courses = {teacher.name: accuracy_by_step(teacher) for teacher in teachers}
    steps = sorted({step for course in courses.values() for step in course})
    lines = [["teacher", *map(str, steps)]]
    return lines + [
        [name, *(number(course.get(step, math.nan)) for step in steps)]
        for name, course in courses.items()
    ]


def best_rows(teachers: Sequence[Teacher]) -> list[list[str]]:
    """A header, then each teacher's `best_and_median`, the spread between seeds, and the first layer by score."""
    head = ["teacher", "best layer", "its students", "median layer's", "SD between seeds"]
    lines = [[*head, *(f"first by {score}" for score in _FIRST_BY)]]
    for teacher in teachers:
        ends = best_and_median(teacher.table)
        first = [first_layer(teacher.table, score) for score in _FIRST_BY]
        lines.append(
            [
                teacher.name,
                str(ends.layer),
                number(ends.best),
                number(ends.median),
                number(spread_between_seeds(teacher.table)),
                *("-" if layer is None else str(layer) for layer in first),
            ]
        )
    return lines


def rows_without_best(teachers: Sequence[Teacher]) -> list[list[str]]:
    """A header, then ρ of the three tested scores `without_best` for each teacher."""
    scores = [PRIMARY, *SECONDARY]
    return [
        ["teacher", "without layer", *scores],
        *(
            [
                teacher.name,
                str(best_and_median(teacher.table).layer),
                *(number(without_best(teacher.table, score)) for score in scores),
            ]
            for teacher in teachers
        ),
    ]
