"""Training runs gathered by arm: at which learning rate, with which means and bands, thinned to what a screen shows.

What an arm has reached is what `ssmlens compare` says: a run that failed counts as 0, and an arm is taken at the
learning rate that does best at the length it was trained on, whatever length is looked at.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from ssmlens.plot.training_curves import Curve
from ssmlens.plot.transplant_panels import LayerStudents
from ssmlens.scores.order import STRUCTURAL, TARGETED
from ssmlens.store.run_metrics import TRAIN, Measure
from ssmlens.store.runs import Run

MOST_POINTS = 2000
"""Most points of a curve."""

MOST_ARMS = 8
"""Arms drawn as curves at most."""

_POINTS = 16_000  # of all curves of a figure
_FIRST = ("default", "mimetic")
_SCORES = (*TARGETED, *STRUCTURAL)  # that layers are ordered by stand first
Measured = tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]


@dataclasses.dataclass(frozen=True)
class Arm:
    """How the models of some runs start.

    Attributes:
        name: "default", "mimetic", "transplant 3", ...
        layer: The teacher's layer; None without a teacher.
        shuffled: Whether it is the control of a transplant.
    """

    name: str
    layer: int | None = None
    shuffled: bool = False


def lengths(runs: Sequence[Run]) -> list[int]:
    """Lengths that any of the runs was evaluated at."""
    return sorted({n for run in runs for n in run.metrics.lengths()})


def length_shown(runs: Sequence[Run], asked: int | None) -> int | None:
    """The length to compare at: the one asked for, else the longest trained on, else the shortest evaluated."""
    there = lengths(runs)
    trained = max((run.length for run in runs if run.length in there), default=None)
    if asked in there:
        return asked
    return trained if trained is not None else min(there, default=None)


def rates(runs: Sequence[Run]) -> list[float]:
    """The learning rates of the runs."""
    return sorted({run.learning_rate for run in runs if not math.isnan(run.learning_rate)})


def by_arm(runs: Sequence[Run]) -> dict[Arm, list[Run]]:
    """The runs of each arm: "default" and "mimetic", others without a teacher, transplants by layer, their controls."""
    arms: dict[Arm, list[Run]] = {}
    for run in runs:
        arms.setdefault(Arm(run.arm, run.teacher_layer, run.shuffled), []).append(run)

    def place(arm: Arm) -> tuple[bool, int, int, str]:
        first = _FIRST.index(arm.name) if arm.name in _FIRST else len(_FIRST)
        return arm.shuffled, -1 if arm.layer is None else arm.layer, first, arm.name

    return {arm: arms[arm] for arm in sorted(arms, key=place)}


def at_rate(
    runs: Sequence[Run], rate: float | None, measure: Measure, length: int | None
) -> list[Run]:
    """The runs of one arm at a learning rate; for None at the one whose runs do best on average at a length.

    Among equals, and where nothing was evaluated yet, best is least loss; without learning rates, all runs.
    """
    there = rates(runs)
    if rate is None and there:
        rate = max(there, key=lambda r: _merit(_with_rate(runs, r), measure, length))
    return list(runs) if rate is None else _with_rate(runs, rate)


def most_telling(
    arms: Mapping[Arm, Sequence[Run]], measure: Measure, length: int | None
) -> dict[Arm, Sequence[Run]]:
    """The arms to draw: those without a teacher, then those that do best, `MOST_ARMS` in all; in their order."""

    def place(arm: Arm) -> tuple[bool, list[float]]:
        return arm.layer is not None, [-part for part in _merit(arms[arm], measure, length)]

    kept = sorted(arms, key=place)[:MOST_ARMS]
    return {arm: runs for arm, runs in arms.items() if arm in kept}


def curves(
    chosen: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    measure: Measure,
    split: str,
    length: int | None,
) -> list[Curve]:
    """A measure by step: of each arm the mean of the runs that did not fail, and the band from their least to most."""
    most = min(MOST_POINTS, _POINTS // max(1, len(chosen)))
    found = []
    for arm, runs in chosen.items():
        measured = [run.metrics.curve(measure, split, length) for run in runs if not _failed(run)]
        curve = over_runs(measured, most)
        if len(curve[0]):
            found.append(Curve(arm.name, styles[arm], *curve))
    return found


def by_length(
    chosen: Mapping[Arm, Sequence[Run]], styles: Mapping[Arm, int], measure: Measure
) -> list[Curve]:
    """The last evaluation by length."""
    found = []
    for arm, runs in chosen.items():
        there = np.array(lengths(runs))
        values = np.array([[_final(run, measure, int(n)) for n in there] for run in runs])
        found += _curve(arm, styles, there, values.reshape(len(runs), len(there)))
    return found


def by_rate(
    arms: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    measure: Measure,
    length: int | None,
) -> list[Curve]:
    """The last evaluation by learning rate: how wide the window is in which an arm learns."""
    found = []
    for arm, runs in arms.items():
        there = rates(runs)
        groups = [[_final(run, measure, length) for run in _with_rate(runs, r)] for r in there]
        values = np.full((max(map(len, groups), default=0), len(there)), np.nan)
        for column, group in enumerate(groups):
            values[: len(group), column] = group
        found += _curve(arm, styles, np.array(there), values)
    return found


def layer_students(
    chosen: Mapping[Arm, Sequence[Run]],
    scores: Sequence[str],
    measure: Measure,
    at: Sequence[int],
) -> list[LayerStudents]:
    """The arms with a teacher as `ssmlens.plot.transplant_panels` draws them: transplants, then their controls."""
    found = []
    for name, shuffled in (("transplant", False), ("shuffled", True)):
        group = [arm for arm in chosen if arm.layer is not None and arm.shuffled is shuffled]
        if group:
            told = {s: np.array([_score(chosen[arm], s) for arm in group]) for s in scores}
            layers = np.array([arm.layer for arm in group])
            reached = {
                n: np.array([_over_seeds(chosen[arm], measure, n) for arm in group]) for n in at
            }
            found.append(LayerStudents(name, layers, told, reached))
    return found


def references(
    chosen: Mapping[Arm, Sequence[Run]], measure: Measure, at: Sequence[int]
) -> dict[str, dict[int, Float[np.ndarray, " 3"]]]:
    """The arms without a teacher, beside `layer_students`: mean, least and most of each by length."""
    return {
        arm.name: {n: _over_seeds(runs, measure, n) for n in at}
        for arm, runs in chosen.items()
        if arm.layer is None
    }


def scores_known(runs: Sequence[Run]) -> list[str]:
    """Names of the scores that the runs tell of their teachers' layers, those first that layers are ordered by.

    What no layer has is left out.
    """
    told = dict.fromkeys(
        name for run in runs for name, value in run.teacher_scores.items() if math.isfinite(value)
    )
    return [*(name for name in _SCORES if name in told), *(n for n in told if n not in _SCORES)]


def evaluated(runs: Sequence[Run], measure: Measure) -> bool:
    """Whether any of the runs has a measure at any length."""
    return any(math.isfinite(run.metrics.final(measure, n)) for run in runs for n in lengths([run]))


def over_runs(
    measured: Sequence[Measured], most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Several curves as one: steps, mean, least, most and number of runs, at no more than `most` steps.

    Where there are more steps, neighbours are put together: a run counts with its mean of them, and the least and most
    are over them all, so that a spike of one step is seen.
    """
    steps = np.unique(np.concatenate([at for at, _ in measured] or [np.zeros(0)]))
    bins = min(most, len(steps))
    starts = np.linspace(0, len(steps), bins + 1).astype(int)[:-1]
    total = np.zeros((len(measured), bins))
    count, low, high = np.zeros_like(total), np.full(bins, np.inf), np.full(bins, -np.inf)
    for row, (at, values) in enumerate(measured):
        finite = np.isfinite(values)
        at, values = at[finite], values[finite]
        into = np.searchsorted(starts, np.searchsorted(steps, at), side="right") - 1
        np.add.at(total[row], into, values)
        np.add.at(count[row], into, 1)
        np.minimum.at(low, into, values)
        np.maximum.at(high, into, values)
    runs = (count > 0).sum(axis=0)
    kept = runs > 0
    means = np.divide(total, count, out=np.zeros_like(total), where=count > 0).sum(axis=0)[kept]
    ends = np.append(starts[1:], len(steps)) - 1
    middle = steps[(starts + ends) // 2]
    return (
        middle[kept].astype(float),
        means / runs[kept],
        low[kept],
        high[kept],
        runs[kept].astype(float),
    )


def _with_rate(runs: Sequence[Run], rate: float) -> list[Run]:
    return [run for run in runs if run.learning_rate == rate]


def _failed(run: Run) -> bool:
    return run.status.state == "failed"


def _final(run: Run, measure: Measure, length: int | None) -> float:
    """The last evaluation at a length, or what counts as such; NaN where there is none yet."""
    if length is None:
        return math.nan
    if _failed(run):
        return math.inf if measure == "loss" else 0.0
    return run.metrics.final(measure, length)


def _over_seeds(
    runs: Sequence[Run], measure: Measure, length: int | None
) -> Float[np.ndarray, " 3"]:
    """Mean, least and most of the last evaluations that there are; NaN where there is none."""
    values = [value for run in runs if not math.isnan(value := _final(run, measure, length))]
    if not values:
        return np.full(3, np.nan)
    return np.array([sum(values) / len(values), min(values), max(values)])


def _merit(runs: Sequence[Run], measure: Measure, length: int | None) -> tuple[float, float, float]:
    """How well runs do: by the measure, then by how little they lose at the length, then in training."""
    losses = [run.metrics.curve("loss", TRAIN)[1] for run in runs]
    last = [values[-1] for values in losses if len(values) and math.isfinite(values[-1])]
    reached, lost = (float(_over_seeds(runs, name, length)[0]) for name in (measure, "loss"))
    return (
        -math.inf if math.isnan(reached) else reached,
        -math.inf if math.isnan(lost) else -lost,
        -sum(last) / len(last) if last else -math.inf,
    )


def _score(runs: Sequence[Run], name: str) -> float:
    told = [run.teacher_scores[name] for run in runs if name in run.teacher_scores]
    return told[0] if told else math.nan


def _curve(
    arm: Arm, styles: Mapping[Arm, int], x: np.ndarray, values: Float[np.ndarray, "run place"]
) -> list[Curve]:
    """The curve of an arm, without places where no run has a value; none at all where no place is left."""
    runs = np.isfinite(values).sum(axis=0)
    kept = runs > 0
    if not kept.any():
        return []
    values, runs = values[:, kept], runs[kept].astype(float)
    total = np.nansum(values, axis=0)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    return [Curve(arm.name, styles[arm], x[kept].astype(float), total / runs, low, high, runs)]
