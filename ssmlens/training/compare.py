"""Arms of a sweep against each other, each at its best learning rate, and whether that is a fair comparison."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Any

from ssmlens.errors import UsageError
from ssmlens.store.run_metrics import SHARES, Measure, Share
from ssmlens.store.runs import Run
from ssmlens.training.config import STARTS

_ENDED = ("done", "failed")
# Arms that a verdict names.
_NAMED = 3
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclasses.dataclass(frozen=True)
class ArmSummary:
    """One arm, over learning rates and seeds.

    Attributes:
        arm: Its name.
        rates: Mean accuracy over seeds, by learning rate.
        best_rate: The learning rate of the highest mean at the length that rates are chosen at; of equals, the one
            of the least loss.
        mean: The mean accuracy at that rate.
        interval: Its 95 % confidence interval over seeds, by Student's t (mean ± t·s/√n), cut to 0..1; NaN with one
            seed.
        spread: The least and the most of the seeds at that rate.
        deviation: Standard deviation over seeds at that rate; NaN with one.
        lock_in: Share of seeds at that rate that reach the threshold.
        window: The learning rates around the best at which at least half of the seeds reach it: (lowest, highest), or
            None where there is none.
        seeds: Seeds at the best rate.
        failed: Runs that failed, at any rate; their accuracy counts as 0.
    """

    arm: str
    rates: Mapping[float, float]
    best_rate: float
    mean: float
    interval: tuple[float, float]
    spread: tuple[float, float]
    deviation: float
    lock_in: float
    window: tuple[float, float] | None
    seeds: int
    failed: int

    @property
    def overall(self) -> float:
        """Mean accuracy over all learning rates, each rate counted alike: what it gives who cannot tune it."""
        return fmean(self.rates.values())

    @property
    def decades(self) -> float:
        """Width of the window: log10 of highest over lowest; NaN where there is none."""
        return math.log10(self.window[1] / self.window[0]) if self.window else math.nan

    @property
    def cut_off(self) -> bool:
        """Whether the window reaches the lowest or highest rate that was tried, so that it may be wider."""
        ends = {min(self.rates), max(self.rates)}
        return self.window is not None and not ends.isdisjoint(self.window)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Arms, the best first.

    Attributes:
        arms: The arms.
        measure: What accuracy is, a key of `SHARES`.
        length: The length that accuracy was measured at.
        chosen_at: The length that each arm's best learning rate was chosen at.
        threshold: What a run that has locked in reaches.
        winner: The arm that is ahead of every other by more than seeds explain; None where none may be called.
        verdict: Why there is a winner, or none.
    """

    arms: tuple[ArmSummary, ...]
    measure: Share
    length: int
    chosen_at: int
    threshold: float
    winner: str | None
    verdict: str


def compare(
    runs: Sequence[Run],
    *,
    measure: Share = "char",
    length: int | None = None,
    choose_at: int | None = None,
    threshold: float = 0.9,
) -> Comparison:
    """Summarise the arms of a sweep.

    >>> print(ssmlens.compare(ssmlens.sweep(configs, "sweeps/copy")).verdict)

    A winner is called only where all arms were trained at the same learning rates, with the same seeds, on the same
    task and model, every run has ended, there are two seeds or more, and its mean is above each other's by more than
    chance explains (Welch's t, two-sided, 5 % against each; degrees of freedom by Welch and Satterthwaite, rounded
    down). Each arm is taken at its best rate, on the same seeds that chose the rate.

    Args:
        runs: Runs of `sweep`.
        measure: What accuracy is, a key of `SHARES`.
        length: Where accuracy is measured; None: the training length.
        choose_at: Where each arm's best rate is chosen; None: the training length, so that accuracy beyond it is not
            what rates were picked for; `length`, where nothing was measured at the training length.
        threshold: What a run must reach to count as locked in.

    Raises:
        UsageError: There is no run, none was measured so at these lengths, or the threshold is no share.
    """
    if not runs:
        raise UsageError("there is no run to compare")
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold is above 0 and at most 1, not {threshold:g}")
    measured = _measured(runs, measure)
    trained = runs[0].length
    where = _require(trained if length is None else length, measured, "--length")
    if choose_at is None:
        choose_at = trained if trained in measured else where
    chosen_at = _require(choose_at, measured, "--choose-at")
    by_arm: dict[str, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    arms = [
        _summarise(arm, held, measure, where, chosen_at, threshold) for arm, held in by_arm.items()
    ]
    arms.sort(key=lambda arm: -arm.mean)
    unfair = _why_unfair(by_arm)
    winner, verdict = (None, f"no winner: {unfair}") if unfair else _judge(arms)
    return Comparison(tuple(arms), measure, where, chosen_at, threshold, winner, verdict)


def _measured(runs: Sequence[Run], measure: Share) -> list[int]:
    """The lengths at which any run has this accuracy; raises UsageError where there is none, though others are."""
    lengths = sorted({n for run in runs for n in run.metrics.lengths()})
    found = [n for n in lengths if any(math.isfinite(r.metrics.final(measure, n)) for r in runs)]
    if lengths and not found:
        free = "; train with --free-running" if measure.endswith("_free") else ""
        raise UsageError(f"--measure {measure}: no run has measured {SHARES[measure]}{free}")
    return found


def _require(length: int | None, measured: Sequence[int], option: str) -> int:
    if length is None or length not in measured:
        lengths = ", ".join(map(str, measured)) or "none"
        raise UsageError(f"{option} {length}: no run was measured at it; measured: {lengths}")
    return length


def _summarise(
    arm: str, runs: Sequence[Run], measure: Share, length: int, chosen_at: int, threshold: float
) -> ArmSummary:
    by_rate: dict[float, list[float]] = {}
    merits: dict[float, list[tuple[float, float]]] = {}
    for run in sorted(runs, key=lambda run: run.learning_rate):
        by_rate.setdefault(run.learning_rate, []).append(_reached(run, measure, length))
        loss = _of_ended(run, "loss", chosen_at, math.inf)
        merit = (_reached(run, measure, chosen_at), -loss)
        merits.setdefault(run.learning_rate, []).append(merit)
    rates = {rate: fmean(values) for rate, values in by_rate.items()}
    best = max(rates, key=lambda rate: tuple(map(fmean, zip(*merits[rate], strict=True))))
    locked = {r: fmean(value >= threshold for value in by_rate[r]) for r in rates}
    return ArmSummary(
        arm=arm,
        rates=rates,
        best_rate=best,
        mean=rates[best],
        interval=_interval(by_rate[best]),
        spread=(min(by_rate[best]), max(by_rate[best])),
        deviation=_deviation(by_rate[best]),
        lock_in=locked[best],
        window=_window(locked, best),
        seeds=len(by_rate[best]),
        failed=sum(run.status.state == "failed" for run in runs),
    )


def _reached(run: Run, measure: Share, length: int) -> float:
    """The accuracy that a run ended with; 0 where it failed, or measured none."""
    return _of_ended(run, measure, length, 0.0)


def _of_ended(run: Run, measure: Measure, length: int, otherwise: float) -> float:
    value = run.metrics.final(measure, length)
    return otherwise if run.status.state == "failed" or value != value else value


def _window(locked: Mapping[float, float], best: float) -> tuple[float, float] | None:
    """The unbroken row of learning rates with the best in it at which at least half of the seeds lock in."""
    rates = list(locked)
    low = high = rates.index(best)
    if locked[best] < 0.5:
        return None
    while low > 0 and locked[rates[low - 1]] >= 0.5:
        low -= 1
    while high + 1 < len(rates) and locked[rates[high + 1]] >= 0.5:
        high += 1
    return rates[low], rates[high]


def _why_unfair(by_arm: Mapping[str, Sequence[Run]]) -> str:
    """Why arms may not be set against each other; "" where they may."""
    if len(by_arm) < 2:
        return "there is one arm"
    (first, runs), *others = by_arm.items()
    for arm, held in others:
        for what, key in _KEYS:
            ours, theirs = ({key(run) for run in group} for group in (runs, held))
            if ours != theirs:
                return f"{first} and {arm} were swept over different {what}"
    grid = [sorted((run.learning_rate, run.seed or 0) for run in held) for held in by_arm.values()]
    if any(cells != grid[0] or len(set(cells)) < len(cells) for cells in grid):
        return "not every arm has one run for each learning rate and seed"
    if going := sum(r.status.state not in _ENDED for held in by_arm.values() for r in held):
        return f"{going} runs have not ended"
    if len({run.seed for run in runs}) < 2:
        return "one seed says nothing of the spread; train more"
    return ""


def _setting(run: Run) -> str:
    """Task, model and training of a run: all but how it starts, its seed and its learning rate."""
    own = STARTS | {"seed", "learning_rate"}
    return str(sorted((name, str(v)) for name, v in run.config.items() if name not in own))


_KEYS: tuple[tuple[str, Any], ...] = (
    ("learning rates", lambda run: run.learning_rate),
    ("seeds", lambda run: run.seed),
    ("tasks, models or training", _setting),
)


def _judge(arms: Sequence[ArmSummary]) -> tuple[str | None, str]:
    best, *others = arms
    close = [arm.arm for arm in others if not _is_ahead(best, arm)]
    if close:
        more = f" and {len(close) - _NAMED} more" if len(close) > _NAMED else ""
        named = ", ".join(close[:_NAMED]) + more
        return None, f"no winner: {best.arm} and {named} differ by no more than seeds do"
    edge = best.best_rate in (min(best.rates), max(best.rates)) and len(best.rates) > 1
    at = f"{best.arm} wins, at learning rate {best.best_rate:g}"
    return best.arm, at + (", the edge of the grid: widen it" if edge else "")


def _is_ahead(one: ArmSummary, other: ArmSummary) -> bool:
    """Whether one mean is above the other at 5 %, by Welch's t-test (two-sided)."""
    a, b = (arm.deviation**2 / arm.seeds for arm in (one, other))
    if a + b == 0:
        return one.mean > other.mean
    freedom = (a + b) ** 2 / (a**2 / (one.seeds - 1) + b**2 / (other.seeds - 1))
    return (one.mean - other.mean) / math.sqrt(a + b) > _quantile(freedom)


def _quantile(freedom: float | int) -> float:
    """97.5 % quantile of Student's t; degrees of freedom are rounded down.

    Beyond the table by its expansion about the normal's (Abramowitz & Stegun 26.7.5).
    """
    n = max(1, int(freedom + 1e-9))
    if n <= len(_T):
        return _T[n - 1]
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else math.nan


def _interval(values: Sequence[float]) -> tuple[float, float]:
    n, mean = len(values), fmean(values)
    if n < 2:
        return math.nan, math.nan
    half = _quantile(n - 1) * stdev(values) / math.sqrt(n)
    return max(0.0, mean - half), min(1.0, mean + half)
