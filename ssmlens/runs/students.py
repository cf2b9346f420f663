"""Students of a teacher's layers and the arms that they are compared with, for the table and the figure."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from ssmlens.errors import UsageError
from ssmlens.runs.arms import by_arm, lengths, training_length
from ssmlens.runs.compare import ArmSummary, summarise
from ssmlens.runs.measures import DEFAULT
from ssmlens.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Student:
    """The result of an arm of the experiment.

    Attributes:
        arm: Name of the arm.
        layer: The teacher's layer that it started from, or that it is a control of; None for default and mimetic.
        control: Kind of the control: "shuffled" (that layer's values without their structure), ...; "" for none.
        scores: All scores of that layer, from before any training, NaN if one does not apply; empty without a layer.
        at: Its summary at each measured length; best rates are chosen at the training length.
    """

    arm: str
    layer: int | None
    control: str
    scores: Mapping[str, float]
    at: Mapping[int, ArmSummary]


@dataclasses.dataclass(frozen=True)
class LayerStudents:
    """Students that differ in the teacher's layer that they started from.

    Attributes:
        arm: "transplant", or a control, such as "shuffled".
        layer: The teacher's layers.
        scores: Their scores by name, from before any training.
        accuracy: By length: mean over all rates of each layer's student, with its minimum and maximum over seeds.
    """

    arm: str
    layer: Int[np.ndarray, " layer"]
    scores: Mapping[str, Float[np.ndarray, " layer"]]
    accuracy: Mapping[int, Float[np.ndarray, "layer 3"]]


References = dict[str, dict[int, Float[np.ndarray, " 3"]]]
"""Arms without a teacher, by name: their accuracy by length, as in `LayerStudents.accuracy`."""


def students(runs: Sequence[Run], measure: str = DEFAULT) -> list[Student]:
    """Summarise the arms of a `transplant` from their runs; first the best at the training length over all rates.

    Raises:
        UsageError: There is no run, or none has measured anything.
    """
    measured = lengths(runs)
    trained = training_length(runs, measured)
    if trained is None:
        raise UsageError("there is no run that has measured anything")
    results = [
        Student(
            arm=arm.name,
            layer=arm.layer,
            control=arm.control,
            scores=group[0].teacher_scores,
            at={n: summarise(arm.name, group, measure, n, trained) for n in measured},
        )
        for arm, group in by_arm(runs).items()
    ]
    return sorted(results, key=lambda student: _last_if_nan(-student.at[trained].overall))


def panels(
    students: Sequence[Student], scores: Sequence[str], at: Sequence[int]
) -> tuple[list[LayerStudents], References]:
    """Return the data of the figure: transplants and their controls by layer, and the arms without a teacher."""
    arms = []
    controls = sorted({student.control for student in students} - {"", "shuffled"})
    for name, control in (
        ("transplant", ""),
        ("shuffled", "shuffled"),
        *zip(controls, controls, strict=True),
    ):
        group = [
            student
            for student in students
            if student.layer is not None and student.control == control
        ]
        group.sort(key=lambda student: student.layer or 0)
        if group:
            layers = np.array([student.layer for student in group])
            values = {
                s: np.array([student.scores.get(s, math.nan) for student in group]) for s in scores
            }
            accuracy = {n: np.array([_over_seeds(student.at[n]) for student in group]) for n in at}
            arms.append(LayerStudents(name, layers, values, accuracy))
    references = sorted(
        (student for student in students if student.layer is None), key=lambda student: student.arm
    )
    return arms, {
        student.arm: {n: _over_seeds(student.at[n]) for n in at} for student in references
    }


def scores_known(runs: Sequence[Run], first: Sequence[str] = ()) -> list[str]:
    """Return the names of the scores that any run has of its teacher's layer, `first` before others."""
    values = dict.fromkeys(
        name for run in runs for name, value in run.teacher_scores.items() if math.isfinite(value)
    )
    return [*(name for name in first if name in values), *(n for n in values if n not in first)]


def _over_seeds(arm: ArmSummary) -> Float[np.ndarray, " 3"]:
    return np.array([arm.overall, *arm.overall_spread])


def _last_if_nan(key: float) -> float:
    return math.inf if math.isnan(key) else key
