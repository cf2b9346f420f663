"""The arms whose curves are drawn, at which learning rates.

Which rate is an arm's best, and what it has reached, is what `ssmlens compare` says: `ssmlens.runs` has the one rule.
"""

import math
from collections.abc import Mapping, Sequence

from ssmlens.runs.arms import Arm
from ssmlens.runs.compare import summarise
from ssmlens.runs.rates import best_rate
from ssmlens.runs.run import Run

MOST_ARMS = 8
"""Arms drawn as curves at most."""


def with_rate(arms: Mapping[Arm, Sequence[Run]], rate: float | None) -> dict[Arm, Sequence[Run]]:
    """The arms with their runs at a learning rate, those that have any; for None all as they are."""
    chosen = {a: [r for r in runs if rate in (None, r.learning_rate)] for a, runs in arms.items()}
    return {arm: runs for arm, runs in chosen.items() if runs}


def at_best_rate(runs: Sequence[Run], measure: str, length: int | None) -> Sequence[Run]:
    """The runs of one arm at the rate that is best at a length; all of them where they tell no rate."""
    best = best_rate(runs, measure, length)
    return runs if best is None else [run for run in runs if run.learning_rate == best]


def most_telling(arms: Mapping[Arm, Sequence[Run]], measure: str, length: int | None) -> list[Arm]:
    """The arms to draw: those without a teacher, then those that do best over all rates, `MOST_ARMS` in all."""

    def place(arm: Arm) -> tuple[bool, float]:
        overall = summarise(arm.name, arms[arm], measure, length, length).overall
        return arm.layer is not None, math.inf if math.isnan(overall) else -overall

    kept = sorted(arms, key=place)[:MOST_ARMS]
    return [arm for arm in arms if arm in kept]
