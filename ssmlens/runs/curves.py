"""Curves of arms: the mean over their runs, the band from least to most, thinned to what a screen shows."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from ssmlens.runs.arms import Arm, lengths, rates, reached
from ssmlens.runs.run import Run

MOST_POINTS = 2000
"""Most points of a curve."""

_POINTS = 16_000  # of all curves of a figure
Measured = tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""Steps, ascending, and what one run measured at each."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """What the runs of one arm measured, over steps, lengths or learning rates.

    Attributes:
        arm: Name of the arm.
        style: Its number among all arms of the page, so that it looks the same in every figure.
        x: Where it was measured, ascending.
        mean: Mean over the runs.
        low: Least of the runs.
        high: Most of the runs.
        runs: Number of runs at each place.
    """

    arm: str
    style: int
    x: Float[np.ndarray, " place"]
    mean: Float[np.ndarray, " place"]
    low: Float[np.ndarray, " place"]
    high: Float[np.ndarray, " place"]
    runs: Float[np.ndarray, " place"]


def by_step(
    chosen: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    measure: str,
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
    chosen: Mapping[Arm, Sequence[Run]], styles: Mapping[Arm, int], measure: str
) -> list[Curve]:
    """The last evaluation by length."""
    found = []
    for arm, runs in chosen.items():
        there = np.array(lengths(runs))
        values = np.array([[reached(run, measure, int(n)) for n in there] for run in runs])
        found += _curve(arm, styles, there, values.reshape(len(runs), len(there)))
    return found


def by_rate(
    arms: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    measure: str,
    length: int | None,
) -> list[Curve]:
    """The last evaluation by learning rate: how wide the window is in which an arm learns."""
    found = []
    for arm, runs in arms.items():
        there = rates(runs)
        groups = [
            [
                reached(run, measure, length)
                for run in [run for run in runs if run.learning_rate == r]
            ]
            for r in there
        ]
        values = np.full((max(map(len, groups), default=0), len(there)), np.nan)
        for column, group in enumerate(groups):
            values[: len(group), column] = group
        found += _curve(arm, styles, np.array(there), values)
    return found


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


def _failed(run: Run) -> bool:
    return run.status.state == "failed"


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
