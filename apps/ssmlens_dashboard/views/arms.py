"""Select the arms to draw, and their learning rates.

An arm's best rate and its result follow the rule of `ssmlens compare` (`ssmlens.runs`).
"""

import math
from collections.abc import Mapping, Sequence

from ssmlens.runs.arms import Arm
from ssmlens.runs.compare import summarise
from ssmlens.runs.rates import best_rate
from ssmlens.runs.run import Run

MOST_ARMS = 8
"""Most arms drawn as curves."""


def with_rate(arms: Mapping[Arm, Sequence[Run]], rate: float | None) -> dict[Arm, Sequence[Run]]:
    """Select the arms with runs at a learning rate, and those runs; for None return all."""
    selected = {a: [r for r in runs if rate in (None, r.learning_rate)] for a, runs in arms.items()}
    return {arm: runs for arm, runs in selected.items() if runs}


def at_best_rate(runs: Sequence[Run], measure: str, length: int | None) -> Sequence[Run]:
    """Select an arm's runs at its best rate at a length; return all if no rate is known."""
    best = best_rate(runs, measure, length)
    return runs if best is None else [run for run in runs if run.learning_rate == best]


def arms_to_draw(arms: Mapping[Arm, Sequence[Run]], measure: str, length: int | None) -> list[Arm]:
    """Select at most `MOST_ARMS` arms: those without a teacher, then the best over all rates."""

    def place(arm: Arm) -> tuple[bool, float]:
        overall = summarise(arm.name, arms[arm], measure, length, length).overall
        return arm.layer is not None, math.inf if math.isnan(overall) else -overall

    selected = sorted(arms, key=place)[:MOST_ARMS]
    return [arm for arm in arms if arm in selected]
