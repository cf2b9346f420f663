"""The rule for learning rates: an arm's best rate, and its accuracy there on seeds that did not choose it.

Choosing a rate by the seeds that are then reported favours arms that scatter. So the rate of a seed is chosen by the
other seeds, at the training length, and the accuracy of this seed at that rate is reported ("held out").
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
    """The accuracy of an arm's seeds at rates that the other seeds chose.

    Attributes:
        rates: The rate chosen for each seed.
        values: The accuracy of the seed at its rate; seeds not measured there are left out.
        chosen_by_others: False if there is only one seed: its rate is its own best.
    """

    rates: Mapping[int, float]
    values: Mapping[int, float]
    chosen_by_others: bool


class _Merits:
    """The merit of each rate of an arm's runs, at the length that rates are chosen at."""

    def __init__(self, runs: Sequence[Run], measure: str, length: int | None):
        self.grid = Grid.reached(runs, measure, length)
        losses = Grid.reached(runs, LOSS, length), Grid.from_runs(runs, _training_loss)
        self._keys = (self.grid.values, *(-loss.values for loss in losses))

    def best(self, seeds: Bool[np.ndarray, " seed"]) -> int:
        """Return the index of the best rate for these seeds; a rate that was not measured is worse than any other."""
        means = [mean(key[:, seeds], axis=1) for key in self._keys]
        merit = np.stack([np.where(np.isnan(key), -np.inf, key) for key in means], axis=1)
        return max(range(len(self.grid.rates)), key=lambda rate: (*merit[rate], -rate))


def best_rate(runs: Sequence[Run], measure: str, length: int | None) -> float | None:
    """Return the rate at which an arm does best at a length, over all seeds; None if no run has a rate.

    Rates are compared by the mean over the measured seeds: an unmeasured seed counts as missing, not as 0. Ties are
    broken by the lowest mean loss at the length, then the lowest mean training loss, then the lowest rate. If nothing
    is measured yet, the training loss decides.
    """
    if not runs:
        return None
    merits = _Merits(runs, measure, length)
    rate = merits.grid.rates[merits.best(np.ones(len(merits.grid.seeds), dtype=bool))]
    return None if math.isnan(rate) else rate


def held_out(
    runs: Sequence[Run], measure: str, length: int | None, choose_at: int | None
) -> HeldOut:
    """Return an arm's accuracy at `length`, each seed at the `best_rate` of the other seeds at `choose_at`."""
    merits, reached = _Merits(runs, measure, choose_at), Grid.reached(runs, measure, length)
    measured = [bool(np.isfinite(column).any()) for column in merits.grid.values.T]
    rates: dict[int, float] = {}
    values: dict[int, float] = {}
    for place, seed in enumerate(reached.seeds):
        others = [is_measured and other != place for other, is_measured in enumerate(measured)]
        rate = merits.best(np.array(others if any(others) else measured))
        if not np.isnan(reached.values[rate, place]):
            rates[seed], values[seed] = reached.rates[rate], float(reached.values[rate, place])
    return HeldOut(rates, values, sum(measured) > 1)


def _training_loss(run: Run) -> float:
    """Return the last training loss; NaN if there is none, or it is not finite."""
    losses = run.metrics.curve(LOSS, TRAIN)[1]
    return float(losses[-1]) if len(losses) and math.isfinite(losses[-1]) else math.nan
