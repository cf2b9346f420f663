"""Runs grouped by arm, and their measurements by length, rate and seed."""

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
    """An arm: runs whose models start in the same way.

    Attributes:
        name: "default", "mimetic", "transplant 3", ...
        layer: The teacher's layer; None without a teacher.
        control: Which control of a transplant it is: "shuffled", ...; "" for none.
    """

    name: str
    layer: int | None = None
    control: str = ""


def by_arm(runs: Sequence[Run]) -> dict[Arm, list[Run]]:
    """Group runs by arm, in this order: "default", "mimetic", others without a teacher, transplants, their controls."""
    arms: dict[Arm, list[Run]] = {}
    for run in runs:
        arms.setdefault(Arm(run.arm, run.teacher_layer, run.control), []).append(run)

    def place(arm: Arm) -> tuple[bool, str, int, int, str]:
        first = _FIRST.index(arm.name) if arm.name in _FIRST else len(_FIRST)
        plain = arm.control in ("", "shuffled")
        return not plain, arm.control, -1 if arm.layer is None else arm.layer, first, arm.name

    return {arm: arms[arm] for arm in sorted(arms, key=place)}


def lengths(runs: Sequence[Run]) -> list[int]:
    """Return the lengths that any of the runs was evaluated at."""
    return sorted({n for run in runs for n in run.metrics.lengths()})


def training_length(runs: Sequence[Run], measured: Sequence[int]) -> int | None:
    """Return the length to choose rates at: the longest trained on and measured, else the shortest measured."""
    trained = {run.length for run in runs}
    return max((n for n in measured if n in trained), default=min(measured, default=None))


def rates(runs: Sequence[Run]) -> list[float]:
    """Return the learning rates of the runs, ascending."""
    return sorted({run.learning_rate for run in runs if not math.isnan(run.learning_rate)})


def reached(run: Run, measure: str, length: int | None) -> float:
    """Return a run's last value of a measure; NaN if it was not measured.

    A failed run counts as having learned nothing: 0, or an infinite loss.
    """
    if length is None:
        return math.nan
    if run.status.state == "failed":
        return math.inf if measure == LOSS else 0.0
    return run.metrics.final(measure, length)


@dataclasses.dataclass(frozen=True)
class Grid:
    """One number per run of an arm, by learning rate and seed.

    Attributes:
        rates: Learning rates, ascending; NaN, last, for runs without a rate.
        seeds: Seeds, ascending; −1 for runs without a seed.
        values: NaN where nothing was measured; the mean if two runs share a rate and a seed.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    values: Float[np.ndarray, "rate seed"]

    @classmethod
    def from_runs(cls, runs: Sequence[Run], value_of: Callable[[Run], float]) -> "Grid":
        """Build the grid of an arm's runs; `value_of` returns NaN for a run without a value."""
        known = rates(runs)
        unknown = [math.nan] if any(math.isnan(run.learning_rate) for run in runs) else []
        seeds = sorted({_seed(run) for run in runs})
        total, count = np.zeros((2, len(known) + len(unknown), len(seeds)))
        for run in runs:
            value = value_of(run)
            if not math.isnan(value):
                rate = run.learning_rate
                cell = known.index(rate) if rate in known else -1, seeds.index(_seed(run))
                total[cell] += value
                count[cell] += 1
        values = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        return cls((*known, *unknown), tuple(seeds), values)

    @classmethod
    def reached(cls, runs: Sequence[Run], measure: str, length: int | None) -> "Grid":
        """Build the grid of `reached` at a length for the runs of an arm."""
        return cls.from_runs(runs, lambda run: reached(run, measure, length))

    def by_rate(self) -> Float[np.ndarray, " rate"]:
        """Return the mean over the measured seeds; NaN if there is none."""
        return mean(self.values, axis=1)

    def by_seed(self) -> Float[np.ndarray, " seed"]:
        """Return the mean over the measured rates, with equal weights; NaN if there is none."""
        return mean(self.values, axis=0)


def mean(values: Float[np.ndarray, "*axes"], axis: int) -> Float[np.ndarray, "*rest"]:
    """Return the mean over an axis without NaN; NaN if nothing else is there."""
    finite = ~np.isnan(values)
    total, count = np.where(finite, values, 0).sum(axis=axis), finite.sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _seed(run: Run) -> int:
    return -1 if run.seed is None else run.seed
