"""The one rule for learning rates: which is an arm's best, and what the arm reaches at it on seeds that did not choose.

Choosing a rate by the seeds that are then reported flatters arms that scatter. So the rate of a seed is chosen by the
others, at the length that was trained on, and what this seed reaches there is told ("held out").
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from ssmlens.runs.arms import Grid, mean
from ssmlens.runs.measures import LOSS
from ssmlens.runs.metrics import TRAIN
from ssmlens.runs.run import Run


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What an arm reaches at rates that were chosen without the seed that is told.

    Attributes:
        rates: The rate chosen for each seed.
        values: What the seed reached there; seeds that were not measured there are left out.
        chosen_by_others: False where there is one seed alone: its rate is its own best.
    """

    rates: Mapping[int, float]
    values: Mapping[int, float]
    chosen_by_others: bool


class _Merits:
    """How good each rate of an arm's runs is, at the length that rates are chosen at."""

    def __init__(self, runs: Sequence[Run], measure: str, length: int | None):
        self.grid = Grid.reached(runs, measure, length)
        losses = Grid.reached(runs, LOSS, length), Grid.of(runs, _training_loss)
        self._keys = (self.grid.values, *(-loss.values for loss in losses))

    def best(self, seeds: Bool[np.ndarray, " seed"]) -> int:
        """The place of the best rate for these seeds; what is not measured is worse than anything."""
        means = [mean(key[:, seeds], axis=1) for key in self._keys]
        merit = np.stack([np.where(np.isnan(key), -np.inf, key) for key in means], axis=1)
        return max(range(len(self.grid.rates)), key=lambda rate: (*merit[rate], -rate))


def best_rate(runs: Sequence[Run], measure: str, length: int | None) -> float | None:
    """The rate at which the runs of an arm do best at a length, over all seeds; None where no run tells a rate.

    What is compared is the mean over the seeds that were measured: a seed that was not counts as missing, not as 0. Of
    equal rates that of the least mean loss at the length is best, then of the least mean loss in training, then the
    lowest rate. Where nothing is measured yet, the loss in training decides.
    """
    if not runs:
        return None
    merits = _Merits(runs, measure, length)
    rate = merits.grid.rates[merits.best(np.ones(len(merits.grid.seeds), dtype=bool))]
    return None if math.isnan(rate) else rate


def held_out(
    runs: Sequence[Run], measure: str, length: int | None, choose_at: int | None
) -> HeldOut:
    """What an arm reaches at `length`, each seed at the rate that is `best_rate` of the other seeds at `choose_at`."""
    merits, reached = _Merits(runs, measure, choose_at), Grid.reached(runs, measure, length)
    measured = [bool(np.isfinite(column).any()) for column in merits.grid.values.T]
    rates: dict[int, float] = {}
    values: dict[int, float] = {}
    for place, seed in enumerate(reached.seeds):
        others = [there and other != place for other, there in enumerate(measured)]
        rate = merits.best(np.array(others if any(others) else measured))
        if not np.isnan(reached.values[rate, place]):
            rates[seed], values[seed] = reached.rates[rate], float(reached.values[rate, place])
    return HeldOut(rates, values, sum(measured) > 1)


def _training_loss(run: Run) -> float:
    """The last loss in training; NaN where there is none that is finite."""
    losses = run.metrics.curve(LOSS, TRAIN)[1]
    return float(losses[-1]) if len(losses) and math.isfinite(losses[-1]) else math.nan
