"""Students of a teacher's layers beside the arms that they are held against: what the table and the figure show."""

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
    """How an arm of the experiment came out.

    Attributes:
        arm: Its name.
        layer: The teacher's layer that it started as, or that it is a control of; None for default and mimetic.
        control: Which control it is: "shuffled", that layer's values, their structure destroyed; ...; "" for none.
        scores: Every score of that layer, from before any training, NaN where it does not apply; else empty.
        at: Its summary by the length that accuracy was measured at; best rates are chosen at the training length.
    """

    arm: str
    layer: int | None
    control: str
    scores: Mapping[str, float]
    at: Mapping[int, ArmSummary]


@dataclasses.dataclass(frozen=True)
class LayerStudents:
    """Students that differ in the teacher's layer that they started as.

    Attributes:
        arm: "transplant", or a control, such as "shuffled".
        layer: The teacher's layers.
        scores: Their scores by name, from before any training.
        accuracy: By length: mean over all rates of each layer's student, and its least and most over seeds.
    """

    arm: str
    layer: Int[np.ndarray, " layer"]
    scores: Mapping[str, Float[np.ndarray, " layer"]]
    accuracy: Mapping[int, Float[np.ndarray, "layer 3"]]


References = dict[str, dict[int, Float[np.ndarray, " 3"]]]
"""Arms without a teacher, by name: what `LayerStudents.accuracy` has, by length."""


def students(runs: Sequence[Run], measure: str = DEFAULT) -> list[Student]:
    """The arms of a `transplant` by their runs, the best at the training length over all rates first.

    Raises:
        UsageError: There is no run, or none has measured anything.
    """
    there = lengths(runs)
    trained = training_length(runs, there)
    if trained is None:
        raise UsageError("there is no run that has measured anything")
    found = [
        Student(
            arm=arm.name,
            layer=arm.layer,
            control=arm.control,
            scores=group[0].teacher_scores,
            at={n: summarise(arm.name, group, measure, n, trained) for n in there},
        )
        for arm, group in by_arm(runs).items()
    ]
    return sorted(found, key=lambda student: _last_if_nan(-student.at[trained].overall))


def panels(
    students: Sequence[Student], scores: Sequence[str], at: Sequence[int]
) -> tuple[list[LayerStudents], References]:
    """What `plots.transplant_panels` draws: transplants and their controls by layer, and the arms without a teacher."""
    arms = []
    controls = sorted({it.control for it in students} - {"", "shuffled"})
    for name, control in (
        ("transplant", ""),
        ("shuffled", "shuffled"),
        *zip(controls, controls, strict=True),
    ):
        group = [it for it in students if it.layer is not None and it.control == control]
        group.sort(key=lambda student: student.layer or 0)
        if group:
            layers = np.array([student.layer for student in group])
            told = {s: np.array([it.scores.get(s, math.nan) for it in group]) for s in scores}
            accuracy = {n: np.array([_over_seeds(it.at[n]) for it in group]) for n in at}
            arms.append(LayerStudents(name, layers, told, accuracy))
    alone = sorted((it for it in students if it.layer is None), key=lambda student: student.arm)
    return arms, {it.arm: {n: _over_seeds(it.at[n]) for n in at} for it in alone}


def scores_known(runs: Sequence[Run], first: Sequence[str] = ()) -> list[str]:
    """Names of the scores that any of the runs has of its teacher's layer, `first` before others."""
    told = dict.fromkeys(
        name for run in runs for name, value in run.teacher_scores.items() if math.isfinite(value)
    )
    return [*(name for name in first if name in told), *(n for n in told if n not in first)]


def _over_seeds(arm: ArmSummary) -> Float[np.ndarray, " 3"]:
    return np.array([arm.overall, *arm.overall_spread])


def _last_if_nan(key: float) -> float:
    return math.inf if math.isnan(key) else key
