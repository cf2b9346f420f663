"""Compare the arms of a sweep over all learning rates, and check that the comparison is fair."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ssmlens.errors import UsageError
from ssmlens.runs.arms import Arm, Grid, by_arm, lengths, training_length
from ssmlens.runs.measures import DEFAULT, LOSS, in_words
from ssmlens.runs.rates import best_rate, held_out
from ssmlens.runs.run import Run, open_run
from ssmlens.runs.statistics import interval, is_above
from ssmlens.runs.table import measures

_ENDED = ("done", "failed")
# Most arms that a verdict names.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class ArmSummary:
    """One arm, over learning rates and seeds. A failed run counts as 0, a run that was not measured as missing.

    Attributes:
        arm: Name of the arm.
        overall: Mean accuracy over all learning rates, with equal weights: what you get without tuning. Arms are
            ordered and judged by it.
        overall_interval: Its 95 % confidence interval over seeds, by Student's t; NaN with one seed.
        overall_spread: Its minimum and maximum over seeds.
        by_seed: Mean over all rates, for each seed.
        rates: Mean accuracy over seeds, by learning rate.
        best_rate: The best learning rate for all seeds together, see `rates.best_rate`: curves show it.
        best: What you get with tuning: each seed at the rate that is best for the others, mean over seeds. With one
            seed, its accuracy at its own best rate.
        best_interval: As `overall_interval`, for `best`.
        best_spread: As `overall_spread`, for `best`.
        chosen: The rate chosen for each seed.
        held_out: Whether rates were chosen by other seeds; False with one seed.
        lock_in: Share of the seeds at `best_rate` that reach the threshold.
        window: The unbroken range of rates around `best_rate` at which at least half of the seeds reach it: (lowest,
            highest), or None if there is none.
        seeds: Number of seeds that were measured.
        failed: Number of failed runs, at any rate.
    """

    arm: str
    overall: float
    overall_interval: tuple[float, float]
    overall_spread: tuple[float, float]
    by_seed: Mapping[int, float]
    rates: Mapping[float, float]
    best_rate: float
    best: float
    best_interval: tuple[float, float]
    best_spread: tuple[float, float]
    chosen: Mapping[int, float]
    held_out: bool
    lock_in: float
    window: tuple[float, float] | None
    seeds: int
    failed: int

    @property
    def decades(self) -> float:
        """Width of the window: log10 of highest over lowest; NaN without a window."""
        return math.log10(self.window[1] / self.window[0]) if self.window else math.nan

    @property
    def cut_off(self) -> bool:
        """Whether the window reaches the lowest or highest rate of the grid, so that it may be wider."""
        return self.window is not None and not self._ends.isdisjoint(self.window)

    @property
    def edges(self) -> tuple[float, ...]:
        """The best rates, of all seeds together and of each, that lie at an end of the grid."""
        best = {self.best_rate, *self.chosen.values()}
        return tuple(sorted(best & self._ends)) if len(self.rates) > 1 else ()

    @property
    def _ends(self) -> set[float]:
        return {min(self.rates), max(self.rates)}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Arms, the best first.

    Attributes:
        arms: The arms.
        measure: The measure of accuracy.
        length: The length that accuracy was measured at.
        chosen_at: The length that each arm's best learning rate was chosen at.
        threshold: Accuracy at which a run counts as locked in.
        winner: The arm that is ahead of every other by more than chance explains; None if there is none.
        verdict: Why there is a winner, or none.
        notes: Notes on the best rates: which are at the edge of the grid, which no other seed chose.
    """

    arms: tuple[ArmSummary, ...]
    measure: str
    length: int
    chosen_at: int
    threshold: float
    winner: str | None
    verdict: str
    notes: tuple[str, ...]


def compare(
    runs: Sequence[Run | Path | str],
    *,
    measure: str = DEFAULT,
    length: int | None = None,
    choose_at: int | None = None,
    threshold: float = 0.9,
) -> Comparison:
    """Summarise the arms of a sweep.

    >>> print(ssmlens.compare(ssmlens.sweep(configs, "sweeps/copy")).verdict)
    >>> ssmlens.compare(ssmlens.find_runs("sweeps/copy"))

    Arms are ordered and judged by their mean over all learning rates. A winner is called only where all arms were
    trained at the same learning rates, with the same seeds, on the same task and model, every run has ended, there are
    two seeds or more, and its mean is above each other's by more than chance explains (Welch's t over seeds, two-sided,
    5 % against each).

    Args:
        runs: Runs of `sweep` or `open_run`, or folders of runs, as `find_runs` gives them.
        measure: The measure of accuracy: a share such as char or string, or any other measure of the runs for which
            higher is better.
        length: Length at which accuracy is measured; None: the training length.
        choose_at: Length at which each arm's best rate is chosen; None: the training length, so that rates are not
            picked for accuracy beyond it; `length`, if nothing was measured at the training length.
        threshold: Accuracy at which a run counts as locked in.

    Raises:
        UsageError: There is no run, no run has this measure at these lengths, or the threshold is not a share.
    """
    if not runs:
        raise UsageError("there is no run to compare")
    runs = [run if isinstance(run, Run) else open_run(run) for run in runs]
    if not 0 < threshold <= 1:
        raise UsageError(f"`threshold` is above 0 and at most 1, not {threshold:g}")
    measured = _measured(runs, measure)
    trained = training_length(runs, lengths(runs))
    where = _require(trained if length is None else length, measured, "`length`")
    if choose_at is None:
        choose_at = trained if trained in measured else where
    chosen_at = _require(choose_at, measured, "`choose_at`")
    gathered = by_arm(runs)
    arms = [
        summarise(arm.name, group, measure, where, chosen_at, threshold)
        for arm, group in gathered.items()
    ]
    arms.sort(key=lambda arm: -arm.overall if arm.seeds else math.inf)
    unfair = _why_unfair(gathered)
    winner, verdict = (None, f"no winner: {unfair}") if unfair else _judge(arms)
    return Comparison(
        tuple(arms), measure, where, chosen_at, threshold, winner, verdict, notes(arms)
    )


def summarise(
    arm: str,
    runs: Sequence[Run],
    measure: str,
    length: int | None,
    choose_at: int | None,
    threshold: float = 0.9,
) -> ArmSummary:
    """Summarise the runs of one arm at a length; NaN where nothing was measured."""
    grid, tuned = Grid.reached(runs, measure, length), held_out(runs, measure, length, choose_at)
    by_seed = {s: float(v) for s, v in zip(grid.seeds, grid.by_seed(), strict=True) if v == v}
    means = {r: float(v) for r, v in zip(grid.rates, grid.by_rate(), strict=True)}
    best_known = best_rate(runs, measure, choose_at)
    best = math.nan if best_known is None else best_known
    place = len(grid.rates) - 1 if best_known is None else grid.rates.index(best_known)
    locked = [_share(row, threshold) for row in grid.values]
    overall, tuned_values = list(by_seed.values()), list(tuned.values.values())
    return ArmSummary(
        arm=arm,
        overall=_mean([value for value in means.values() if value == value]),
        overall_interval=interval(overall),
        overall_spread=_spread(overall),
        by_seed=by_seed,
        rates=means,
        best_rate=best,
        best=_mean(tuned_values),
        best_interval=interval(tuned_values),
        best_spread=_spread(tuned_values),
        chosen=tuned.rates,
        held_out=tuned.chosen_by_others,
        lock_in=locked[place],
        window=None if best_known is None else _window(grid.rates, locked, place),
        seeds=len(by_seed),
        failed=sum(run.status.state == "failed" for run in runs),
    )


def notes(arms: Sequence[ArmSummary]) -> tuple[str, ...]:
    """Return notes on the best rates of some arms."""
    lines = []
    edges = {arm.arm: ", ".join(f"{rate:g}" for rate in arm.edges) for arm in arms if arm.edges}
    if edges:
        edge = [f"{arm} ({rates})" for arm, rates in edges.items()]
        lines.append(f"best rate at the edge of the grid: {', '.join(edge)}; widen the grid")
    single_seed = [arm for arm in arms if arm.seeds == 1 and len(arm.rates) > 1]
    if single_seed:
        lines.append("with one seed there is none to leave out: its best rate is its own")
    return tuple(lines)


def _measured(runs: Sequence[Run], measure: str) -> list[int]:
    """Return the lengths at which any run has this measure; raise UsageError if runs have only other measures."""
    all_lengths = lengths(runs)
    measured = [
        n for n in all_lengths if any(math.isfinite(r.metrics.final(measure, n)) for r in runs)
    ]
    if measure == LOSS or (all_lengths and not measured):
        free = "; train with `free_running`" if measure.endswith("_free") else ""
        known = ", ".join(name for name in measures(runs) if name != LOSS)
        reason = "loss is no accuracy" if measure == LOSS else "no run has measured "
        reason += "" if measure == LOSS else in_words(measure)
        raise UsageError(f"`measure` {measure}: {reason}{free}; measured: {known}")
    return measured


def _require(length: int | None, measured: Sequence[int], option: str) -> int:
    if length is None or length not in measured:
        listed = ", ".join(map(str, measured)) or "none"
        raise UsageError(f"{option} {length}: no run was measured at it; measured: {listed}")
    return length


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (math.nan, math.nan)


def _share(values: np.ndarray, threshold: float) -> float:
    """Return the share of the measured seeds that reach the threshold; 0 if there is none."""
    present = values[~np.isnan(values)]
    return float((present >= threshold).mean()) if len(present) else 0.0


def _window(
    rates: Sequence[float], locked: Sequence[float], best: int
) -> tuple[float, float] | None:
    low = high = best
    if locked[best] < 0.5:
        return None
    while low > 0 and locked[low - 1] >= 0.5:
        low -= 1
    while high + 1 < len(rates) and locked[high + 1] >= 0.5:
        high += 1
    return rates[low], rates[high]


def _why_unfair(gathered: Mapping[Arm, Sequence[Run]]) -> str:
    """Return why arms cannot be compared fairly; "" if they can."""
    if len(gathered) < 2:
        return "there is one arm"
    (first, runs), *others = gathered.items()
    for arm, group in others:
        for name, key in _KEYS:
            ours, theirs = ({key(run) for run in of_arm} for of_arm in (runs, group))
            if ours != theirs:
                return f"{first.name} and {arm.name} were swept over different {name}"
    grid = [sorted((run.learning_rate, run.seed or 0) for run in g) for g in gathered.values()]
    if any(cells != grid[0] or len(set(cells)) < len(cells) for cells in grid):
        return "not every arm has one run for each learning rate and seed"
    if going := sum(r.status.state not in _ENDED for group in gathered.values() for r in group):
        return f"{going} runs have not ended"
    if len({run.seed for run in runs}) < 2:
        return "one seed says nothing about the spread; train more seeds"
    return ""


_KEYS: tuple[tuple[str, Any], ...] = (
    ("learning rates", lambda run: run.learning_rate),
    ("seeds", lambda run: run.seed),
    (
        "tasks, models or training",
        lambda run: str(sorted((name, str(v)) for name, v in run.setting.items())),
    ),
)


def _judge(arms: Sequence[ArmSummary]) -> tuple[str | None, str]:
    best, *others = arms
    values = list(best.by_seed.values())
    close = [arm.arm for arm in others if not is_above(values, list(arm.by_seed.values()))]
    if close:
        suffix = f" and {len(close) - _NAMED} more" if len(close) > _NAMED else ""
        named = ", ".join(close[:_NAMED]) + suffix
        return None, f"no winner: {best.arm} and {named} differ by no more than seeds do"
    return best.arm, f"{best.arm} wins, in the mean over all learning rates"
