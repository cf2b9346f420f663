"""Students that were trained a second time from the same teacher: how far they are from the committed ones."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analyses.ranking.analysis import Teacher, read_runs
from ssmlens.runs.arms import lengths, reached
from ssmlens.runs.measures import DEFAULT
from ssmlens.runs.prediction_table import number
from ssmlens.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Rerun:
    """Differences in the characters right at the longest length.

    Attributes:
        students: How many students were trained again.
        mean: Mean absolute difference between a student and the same student again.
        between_seeds: Mean absolute difference between the same committed students and those of another seed.
        arm: The arm with the largest difference.
        committed: What its committed student reached.
        again: What the same student reached again.
    """

    students: int
    mean: float
    between_seeds: float
    arm: str
    committed: float
    again: float


def read_rerun(teacher: Teacher, folder: Path) -> Rerun | None:
    """Compare a teacher's students with those in again-NAME.json of a folder; None without that file."""
    file = folder / f"again-{teacher.name}.json"
    return compare(teacher.runs, read_runs(file)) if file.exists() else None


def compare(committed: Sequence[Run], again: Sequence[Run]) -> Rerun:
    """Compare students with the same students trained again, of equal arm, rate and seed."""
    length = max(lengths(again))
    first = {_key(run): reached(run, DEFAULT, length) for run in committed}
    second = {_key(run): reached(run, DEFAULT, length) for run in again}
    differences = {key: abs(first[key] - value) for key, value in second.items()}
    between = [
        abs(first[key] - value)
        for key in second
        for other, value in first.items()
        if other[:2] == key[:2] and other != key
    ]
    most = max(differences, key=lambda key: differences[key])
    return Rerun(
        students=len(second),
        mean=float(np.mean(list(differences.values()))),
        between_seeds=float(np.mean(between)),
        arm=most[0],
        committed=first[most],
        again=second[most],
    )


def rerun_rows(reruns: Mapping[str, Rerun]) -> list[list[str]]:
    """A header, then the rerun of each teacher."""
    head = ["teacher", "students", "mean difference", "mean difference of two seeds"]
    return [
        [*head, "largest difference", "committed", "again"],
        *(
            [
                name,
                str(rerun.students),
                number(rerun.mean, 3),
                number(rerun.between_seeds, 3),
                rerun.arm,
                number(rerun.committed),
                number(rerun.again),
            ]
            for name, rerun in reruns.items()
        ),
    ]


def _key(run: Run) -> tuple[str, float, int | None]:
    return run.arm, run.learning_rate, run.seed
