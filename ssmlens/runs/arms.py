"""Runs gathered by arm: what was measured of them at which lengths, rates and seeds."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from ssmlens.runs.measures import LOSS
from ssmlens.runs.run import Run

_FIRST = ("default", "mimetic")


@dataclasses.dataclass(frozen=True)
class Arm:
    """How the models of some runs start.

    Attributes:
        name: "default", "mimetic", "transplant 3", ...
        layer: The teacher's layer; None without a teacher.
        control: Which control of a transplant it is: "shuffled", ...; "" for none.
    """

    name: str
    layer: int | None = None
    control: str = ""


def by_arm(runs: Sequence[Run]) -> dict[Arm, list[Run]]:
    """The runs of each arm: "default" and "mimetic", others without a teacher, transplants by layer, their controls."""
    arms: dict[Arm, list[Run]] = {}
    for run in runs:
        arms.setdefault(Arm(run.arm, run.teacher_layer, run.control), []).append(run)

    def place(arm: Arm) -> tuple[bool, str, int, int, str]:
        first = _FIRST.index(arm.name) if arm.name in _FIRST else len(_FIRST)
        plain = arm.control in ("", "shuffled")
        return not plain, arm.control, -1 if arm.layer is None else arm.layer, first, arm.name

    return {arm: arms[arm] for arm in sorted(arms, key=place)}


def lengths(runs: Sequence[Run]) -> list[int]:
    """Lengths that any of the runs was evaluated at."""
    return sorted({n for run in runs for n in run.metrics.lengths()})


def training_length(runs: Sequence[Run], measured: Sequence[int]) -> int | None:
    """Where rates are chosen: the longest length that was trained on and measured, else the shortest measured."""
    trained = {run.length for run in runs}
    return max((n for n in measured if n in trained), default=min(measured, default=None))


def rates(runs: Sequence[Run]) -> list[float]:
    """The learning rates of the runs, ascending."""
    return sorted({run.learning_rate for run in runs if not math.isnan(run.learning_rate)})


def reached(run: Run, measure: str, length: int | None) -> float:
    """What a run ended with, or has reached so far; NaN where it was not measured.

    A run that failed has learned nothing: 0, and an infinite loss.
    """
    if length is None:
        return math.nan
    if run.status.state == "failed":
        return math.inf if measure == LOSS else 0.0
    return run.metrics.final(measure, length)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A number of each run of an arm, by learning rate and seed.

    Attributes:
        rates: Learning rates, ascending; NaN, last, of runs that tell none.
        seeds: Seeds, ascending; −1 of runs that tell none.
        values: NaN where nothing was measured; the mean where two runs share a rate and a seed.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    values: Float[np.ndarray, "rate seed"]

    @classmethod
    def of(cls, runs: Sequence[Run], value_of: Callable[[Run], float]) -> "Grid":
        """The grid of an arm's runs; `value_of` is NaN for a run that has no such value."""
        there = rates(runs)
        untold = [math.nan] if any(math.isnan(run.learning_rate) for run in runs) else []
        seeds = sorted({_seed(run) for run in runs})
        total, count = np.zeros((2, len(there) + len(untold), len(seeds)))
        for run in runs:
            value = value_of(run)
            if not math.isnan(value):
                rate = run.learning_rate
                cell = there.index(rate) if rate in there else -1, seeds.index(_seed(run))
                total[cell] += value
                count[cell] += 1
        values = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        return cls((*there, *untold), tuple(seeds), values)

    @classmethod
    def reached(cls, runs: Sequence[Run], measure: str, length: int | None) -> "Grid":
        """What the runs of an arm reached at a length, see `reached`."""
        return cls.of(runs, lambda run: reached(run, measure, length))

    def by_rate(self) -> Float[np.ndarray, " rate"]:
        """The mean over the seeds that were measured; NaN where none was."""
        return mean(self.values, axis=1)

    def by_seed(self) -> Float[np.ndarray, " seed"]:
        """The mean over the rates that were measured, each counted alike; NaN where none was."""
        return mean(self.values, axis=0)


def mean(values: Float[np.ndarray, "*axes"], axis: int) -> Float[np.ndarray, "*rest"]:
    """The mean over an axis of what is not NaN; NaN where there is nothing."""
    there = ~np.isnan(values)
    total, count = np.where(there, values, 0).sum(axis=axis), there.sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _seed(run: Run) -> int:
    return -1 if run.seed is None else run.seed
