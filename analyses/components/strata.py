"""The effect of each component with the others fixed: effects by stratum, with exact permutation tests.

A run's value is that of its last step. The value of an arm and a seed is the mean over all learning rates, so no rate
is chosen by the reported numbers. An effect is the mean difference between arms that differ in one component only. Its
test takes, in each such pair of arms, every way to assign the seeds' values to the two arms (252 for five and five),
and every combination of these over the pairs.
"""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from ssmlens.inits.mimetic import COMPONENTS
from ssmlens.runs.metrics import EVAL
from ssmlens.runs.run import Run

Arm = frozenset[str]
Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run: a measure of a split at a length."""

    measure: str
    length: int
    split: str = EVAL

    def of(self, run: Run) -> float:
        """Return the run's value; 0 if it failed, NaN if it was not measured."""
        if run.status.state == "failed":
            return 0.0
        return run.metrics.final(self.measure, self.length, self.split)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A component, added to the arms of a stratum.

    Attributes:
        component: The added component.
        stratum: The stratum in words.
        keeps: Returns whether an arm without the component belongs to the stratum.
    """

    component: str
    stratum: str
    keeps: Callable[[Arm], bool]

    def pairs(self) -> list[tuple[Arm, Arm]]:
        """The arms without and with the component, all else equal."""
        others = [name for name in COMPONENTS if name != self.component]
        sizes = range(len(others) + 1)
        rest = [frozenset(chosen) for k in sizes for chosen in itertools.combinations(others, k)]
        return [(arm, arm | {self.component}) for arm in rest if self.keeps(arm)]


def _with_A(arm: Arm) -> bool:
    return "A" in arm


def _with_neither(arm: Arm) -> bool:
    return not arm & {"A", "delta"}


def _delta_alone(arm: Arm) -> bool:
    return "delta" in arm and "A" not in arm


CONTRASTS = (
    Contrast("A", "without delta", lambda arm: "delta" not in arm),
    Contrast("A", "with delta", lambda arm: "delta" in arm),
    Contrast("delta", "with A", _with_A),
    Contrast("delta", "without A", lambda arm: "A" not in arm),
    Contrast("BC", "with A", _with_A),
    Contrast("BC", "with neither A nor delta", _with_neither),
    Contrast("BC", "with delta, without A", _delta_alone),
    Contrast("conv", "with A", _with_A),
    Contrast("conv", "with neither A nor delta", _with_neither),
    Contrast("conv", "with delta, without A", _delta_alone),
)


@dataclasses.dataclass(frozen=True)
class Effect:
    """The effect of a component in a stratum.

    Attributes:
        contrast: The component and the stratum.
        mean: The mean difference: arms with the component minus arms without it.
        interval: All shifts of the arms with the component that the test does not reject at 5 %.
        p: The two-sided p value.
        pairs: Number of pairs of arms.
    """

    contrast: Contrast
    mean: float
    interval: tuple[float, float]
    p: float
    pairs: int


Cells = Mapping[Arm, Float[np.ndarray, " seed"]]


def cells(runs: Sequence[Run], outcome: Outcome) -> dict[Arm, Float[np.ndarray, " seed"]]:
    """The values of every set of components. See `cells_by`."""
    return cells_by(runs, outcome, arm_of)


def cells_by(
    runs: Sequence[Run], outcome: Outcome, key: Callable[[Run], Key]
) -> dict[Key, Float[np.ndarray, " seed"]]:
    """Every arm's value for each seed: the mean over all rates. A seed that lacks a rate is left out.

    Args:
        runs: Runs of one grid of rates.
        outcome: The outcome of each run.
        key: Returns the arm of a run.
    """
    by_arm: dict[Key, dict[int, dict[float, float]]] = {}
    for run in runs:
        value = outcome.of(run)
        if run.seed is not None and np.isfinite(value):
            seeds = by_arm.setdefault(key(run), {})
            seeds.setdefault(run.seed, {})[run.learning_rate] = value
    rates = {rate for seeds in by_arm.values() for by_rate in seeds.values() for rate in by_rate}
    return {
        arm: np.array(
            [
                fmean(by_rate.values())
                for _, by_rate in sorted(seeds.items())
                if len(by_rate) == len(rates)
            ]
        )
        for arm, seeds in by_arm.items()
    }


def arm_of(run: Run) -> Arm:
    """Name a set of components; the empty set is the default."""
    return frozenset(run.config.get("components") or ())


def effect(
    values: Cells, contrast: Contrast, pairs: Sequence[tuple[Arm, Arm]] | None = None
) -> Effect | None:
    """The effect over the contrast's pairs of arms, or over some of them. None if an arm lacks values."""
    pairs = contrast.pairs() if pairs is None else pairs
    none = np.zeros(0)
    sides = [(values.get(a, none), values.get(b, none)) for a, b in pairs]
    if not sides or not all(len(values) for pair in sides for values in pair):
        return None
    it = difference(sides)
    return Effect(contrast, it.mean, it.interval, it.p, len(sides))


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of two sides: its mean, all shifts that the test does not reject at 5 %, and the two-sided p."""

    mean: float
    interval: tuple[float, float]
    p: float


Pairs = Sequence[tuple[Float[np.ndarray, " first"], Float[np.ndarray, " second"]]]


def difference(pairs: Pairs) -> Difference:
    """Mean of the second arm minus mean of the first, averaged over the pairs of arms."""
    mean = fmean(float(b.mean() - a.mean()) for a, b in pairs)
    return Difference(mean, _interval(pairs, mean), permutation_p(pairs))


def permutation_p(pairs: Pairs) -> float:
    """Exact p value: the share of assignments whose summed difference of means is at least as far from 0.

    An assignment divides each pair's values anew between its two arms. The sums of half of the pairs are sorted. Each
    sum of the other half is looked up in them by binary search, so four pairs of five and five (252⁴ assignments) take
    milliseconds.
    """
    deals = [_deals(a, b) for a, b in pairs]
    observed = sum(float(b.mean() - a.mean()) for a, b in pairs)
    least = abs(observed) - 1e-9 * max(1.0, abs(observed))
    half = len(deals) // 2
    left, right = _sums(deals[:half]), np.sort(_sums(deals[half:]))
    below = np.searchsorted(right, -least - left, side="right")
    above = len(right) - np.searchsorted(right, least - left, side="left")
    count = below.sum() + above.sum() if least > 0 else len(left) * len(right)
    return min(1.0, float(count) / (len(left) * len(right)))


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for multiple tests by Holm's method."""
    order = np.argsort(ps)
    corrected, most = [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = most
    return corrected


def _deals(
    a: Float[np.ndarray, " first"], b: Float[np.ndarray, " second"]
) -> Float[np.ndarray, " deal"]:
    """Mean of b minus mean of a, for every way to choose b's values from both."""
    both = np.concatenate([a, b])
    chosen = np.array(list(itertools.combinations(range(len(both)), len(b))))
    sums = both[chosen].sum(1)
    return sums / len(b) - (both.sum() - sums) / len(a)


def _sums(deals: Sequence[Float[np.ndarray, " deal"]]) -> Float[np.ndarray, " deal"]:
    total = np.zeros(1)
    for deal in deals:
        total = (total[:, None] + deal).ravel()
    return total


def _interval(pairs: Pairs, mean: float) -> tuple[float, float]:
    """The shifts whose removal leaves p above 5 %, by bisection to .0005."""

    def is_inside(shift: float) -> bool:
        return permutation_p([(a, b - shift) for a, b in pairs]) > 0.05

    def edge(sign: int) -> float:
        inside, outside = 0.0, 2.0  # of shares in 0..1
        while outside - inside > 5e-4:
            middle = (inside + outside) / 2
            is_in = is_inside(mean + sign * middle)
            inside, outside = (middle, outside) if is_in else (inside, middle)
        return mean + sign * inside

    return edge(-1), edge(1)
