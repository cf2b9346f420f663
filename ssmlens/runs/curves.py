"""Curves of arms: the mean over their runs and the band from minimum to maximum, thinned for a screen."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from ssmlens.runs.arms import Arm, lengths, rates, reached
from ssmlens.runs.run import Run

MOST_POINTS = 2000
"""Most points of a curve."""

_POINTS = 16_000  # most points of all curves of a figure
Measured = tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""Steps, ascending, and what one run measured at each."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """The measurements of one arm's runs, over steps, lengths or learning rates.

    Attributes:
        arm: Name of the arm.
        style: Number of the arm on the page, so that it looks the same in every figure.
        x: Steps, lengths or rates, ascending.
        mean: Mean over the runs.
        low: Minimum over the runs.
        high: Maximum over the runs.
        runs: Number of runs at each x.
    """

    arm: str
    style: int
    x: Float[np.ndarray, " place"]
    mean: Float[np.ndarray, " place"]
    low: Float[np.ndarray, " place"]
    high: Float[np.ndarray, " place"]
    runs: Float[np.ndarray, " place"]


def by_step(
    arms: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    measure: str,
    split: str,
    length: int | None,
) -> list[Curve]:
    """Return the curves of a measure by step: for each arm the mean of the runs that did not fail, and their band."""
    most = min(MOST_POINTS, _POINTS // max(1, len(arms)))
    curves = []
    for arm, runs in arms.items():
        measured = [run.metrics.curve(measure, split, length) for run in runs if not _failed(run)]
        curve = over_runs(measured, most)
        if len(curve[0]):
            curves.append(Curve(arm.name, styles[arm], *curve))
    return curves


def by_length(
    arms: Mapping[Arm, Sequence[Run]], styles: Mapping[Arm, int], measure: str
) -> list[Curve]:
    """Return the curves of the last evaluation by length."""
    curves = []
    for arm, runs in arms.items():
        known_lengths = np.array(lengths(runs))
        values = np.array([[reached(run, measure, int(n)) for n in known_lengths] for run in runs])
        curves += _curve(arm, styles, known_lengths, values.reshape(len(runs), len(known_lengths)))
    return curves


def by_rate(
    arms: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    measure: str,
    length: int | None,
) -> list[Curve]:
    """Return the curves of the last evaluation by learning rate, which show the window in which an arm learns."""
    curves = []
    for arm, runs in arms.items():
        known_rates = rates(runs)
        groups = [
            [
                reached(run, measure, length)
                for run in [run for run in runs if run.learning_rate == r]
            ]
            for r in known_rates
        ]
        values = np.full((max(map(len, groups), default=0), len(known_rates)), np.nan)
        for column, group in enumerate(groups):
            values[: len(group), column] = group
        curves += _curve(arm, styles, np.array(known_rates), values)
    return curves


def over_runs(
    measured: Sequence[Measured], most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Merge several curves into one: steps, mean, minimum, maximum and number of runs, at no more than `most` steps.

    If there are more steps, neighbours are merged: a run counts with its mean over them; minimum and maximum are over
    all of them, so that a spike of one step stays visible.
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
    has_runs = runs > 0
    means = np.divide(total, count, out=np.zeros_like(total), where=count > 0).sum(axis=0)[has_runs]
    ends = np.append(starts[1:], len(steps)) - 1
    middle = steps[(starts + ends) // 2]
    return (
        middle[has_runs].astype(float),
        means / runs[has_runs],
        low[has_runs],
        high[has_runs],
        runs[has_runs].astype(float),
    )


def _failed(run: Run) -> bool:
    return run.status.state == "failed"


def _curve(
    arm: Arm, styles: Mapping[Arm, int], x: np.ndarray, values: Float[np.ndarray, "run place"]
) -> list[Curve]:
    """Return the curve of an arm, without x at which no run has a value; no curve if no x is left."""
    runs = np.isfinite(values).sum(axis=0)
    has_runs = runs > 0
    if not has_runs.any():
        return []
    values, runs = values[:, has_runs], runs[has_runs].astype(float)
    total = np.nansum(values, axis=0)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    return [Curve(arm.name, styles[arm], x[has_runs].astype(float), total / runs, low, high, runs)]
