"""The conclusions of MAMBA2_CONV.md: effects of arms against their bases, and a verdict on each claim."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from analyses.components.content import content_by
from analyses.components.conv_arms import ARMS, BASES, QUESTIONS
from analyses.components.strata import Difference, Outcome, cells_by, difference, holm
from ssmlens.runs.run import Run

MATTERS = 0.05
"""The smallest effect that matters, and the level of the tests."""

LEAST_SEEDS = 5
_CONTENT = 0.1
PRIMARY = Outcome("char", 100)
FAR = Outcome("char", 300)

HOLDS, NOT, PART, UNTESTED = "holds", "does not hold at this size", "in part", "not tested"
Values = Mapping[str, Float[np.ndarray, " seed"]]


@dataclasses.dataclass(frozen=True)
class ArmEffect:
    """The difference of an arm and its base.

    Attributes:
        arm: The arm's name.
        difference: The arm's values minus those of its base.
        p: p value of the test, corrected by Holm's method if the arm is a half of a question.
    """

    arm: str
    difference: Difference
    p: float

    @property
    def above(self) -> bool:
        """Whether the effect is above 0."""
        return self.p < MATTERS and self.difference.mean >= MATTERS

    @property
    def below(self) -> bool:
        """Whether the effect is below 0."""
        return self.p < MATTERS and self.difference.mean <= -MATTERS

    @property
    def none(self) -> bool:
        """Whether the whole interval is below the smallest effect that matters."""
        low, high = self.difference.interval
        return low >= -MATTERS and high <= MATTERS


Effects = Mapping[str, ArmEffect]


def arm_name(run: Run) -> str:
    """The arm that a run belongs to."""
    return run.arm


def complete_seeds(runs: Sequence[Run]) -> list[Run]:
    """The runs of those seeds that have a run for every arm and every rate."""
    grids: dict[int | None, set[tuple[str, float]]] = {}
    for run in runs:
        grids.setdefault(run.seed, set()).add((run.arm, run.learning_rate))
    most = len(ARMS) * len({run.learning_rate for run in runs})
    return [run for run in runs if len(grids[run.seed]) == most]


def effects(values: Values) -> dict[str, ArmEffect]:
    """Return the effect of every arm against its base, if both have values."""
    none = np.zeros(0)
    differences = {
        arm: difference([(values[base], values[arm])])
        for arm, base in BASES.items()
        if len(values.get(base, none)) and len(values.get(arm, none))
    }
    ps = {arm: it.p for arm, it in differences.items()}
    for question in QUESTIONS:
        halves = [arm for arm in question if arm in differences]
        ps |= dict(zip(halves, holm([ps[arm] for arm in halves]), strict=True))
    return {arm: ArmEffect(arm, it, ps[arm]) for arm, it in differences.items()}


def verdicts(runs: Sequence[Run]) -> dict[str, str]:
    """Every claim with its verdict. Empty if there are too few seeds, or an arm has no runs."""
    if len({run.seed for run in runs}) < LEAST_SEEDS:
        return {}
    near, far = (cells_by(runs, outcome, arm_name) for outcome in (PRIMARY, FAR))
    return conclude(near, far, content_by(runs, 4, 100, arm_name))


def conclude(near: Values, far: Values, content: Values) -> dict[str, str]:
    """Every claim with its verdict. Empty if an arm has no values.

    Args:
        near: Characters at 100: each arm's values, one per seed.
        far: Characters at 300.
        content: `content` after 4 letters that occur twice in 100, of the arms that copy.
    """
    here, there = effects(near), effects(far)
    if not {*here} == {*there} == {*BASES}:
        return {}
    harm = _harm(here["A+conv"])
    claims = {"1. the identity convolution harms beside A": harm}
    halves = [arm for question in QUESTIONS for arm in question]
    for arm in halves:
        claims[f"2. {arm} carries the harm"] = _half(here, arm) if harm == HOLDS else UNTESTED
    claims["3. the harm is one of unpacked rows"] = _packed(here) if harm == HOLDS else UNTESTED
    claims["4. the convolution helps beside A + BC, most at 300"] = _far(here, there)
    above = [it["paper"].above for it in (here, there)]
    claims["5. the paper's whole set beats A alone"] = (
        HOLDS if all(above) else PART if any(above) else NOT
    )
    claims["6. the harm goes with look-up by content"] = (
        _content(content) if harm == HOLDS else UNTESTED
    )
    return claims


def _harm(it: ArmEffect) -> str:
    return HOLDS if it.below else NOT if it.none or it.above else PART


def _half(near: Effects, arm: str) -> str:
    it, harm = near[arm], near["A+conv"].difference.mean
    carries = it.below and it.difference.mean <= harm / 2
    return HOLDS if carries else NOT if it.none or it.above else PART


def _packed(near: Effects) -> str:
    it = near["A+conv packed"]
    return HOLDS if it.none or it.above else NOT if it.below else PART


def _far(near: Effects, far: Effects) -> str:
    here, there = near["A+BC+conv"], far["A+BC+conv"]
    if there.above:
        return HOLDS if there.difference.mean > here.difference.mean else PART
    return NOT if there.difference.interval[1] < MATTERS else PART


def _content(content: Values) -> str:
    if "A" not in content or "A+conv" not in content:
        return "not answered: one of the two arms does not copy"
    it = difference([(content["A"], content["A+conv"])])
    significant = it.p < MATTERS
    if significant and it.mean >= _CONTENT:
        return HOLDS
    if significant and it.mean <= -_CONTENT:
        return f"{NOT}: with the convolution content falls, as guessed"
    low, high = it.interval
    return NOT if low >= -MATTERS and high <= MATTERS else PART
