"""`ssmlens compare`."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import tyro

from ssmlens.cli.command import Result
from ssmlens.cli.curves import share
from ssmlens.text_table import text_table


@dataclasses.dataclass(frozen=True)
class CompareCommand:
    """Compare the arms of a sweep over all learning rates; name a winner only if the comparison is fair.

    An arm's first number is its mean over all rates, with a 95 % confidence interval over seeds (Student's t).
    "At best" takes each seed at the rate that is best for the other seeds; "edge" marks a best rate at the end of
    the grid. A run locks in when it reaches --threshold. Window: the unbroken range of rates around the best at which
    at least half of the seeds lock in; ≥ means that it reaches the edge of the grid.
    """

    sweep: tyro.conf.Positional[Path]
    """The folder of the sweep."""
    length: int | None = None
    """Length at which accuracy is measured. Default: the training length."""
    choose_at: int | None = None
    """Length at which each arm's best learning rate is chosen. Default: the training length."""
    measure: str = "char"
    """char, string: share of characters, or of strings, that are right.
    char_free, string_free: the same while the model reads its own answers. Or another number that the runs measured."""
    threshold: float = 0.9
    """Accuracy at which a run counts as locked in."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Compare the runs and return the table."""
        from ssmlens.runs.compare import compare
        from ssmlens.runs.run import find_runs

        comparison = compare(
            find_runs(self.sweep),
            measure=self.measure,
            length=self.length,
            choose_at=self.choose_at,
            threshold=self.threshold,
        )
        text = "\n".join(
            [title(comparison), text_table(rows(comparison)), comparison.verdict, *comparison.notes]
        )
        return Result(_plain(comparison), text)


def title(comparison: Any) -> str:
    """Return the title line of a comparison: measure and length."""
    from ssmlens.runs.measures import in_words

    same = comparison.chosen_at == comparison.length
    rates = "" if same else f", rates chosen at {comparison.chosen_at}"
    return f"{in_words(comparison.measure)} at length {comparison.length}{rates}"


def rows(comparison: Any) -> list[list[str]]:
    """Return a comparison as a table: a header, then one row per arm, the best first."""
    header = ["arm", "all rates", "95 %", "best rate", "at best", "lock-in", "window", "seeds"]
    return [[*header, "failed"], *map(_row, comparison.arms)]


def best_rate(arm: Any) -> str:
    """Return an arm's best rate as text, with the range that its seeds chose for each other if they differ."""
    rates = sorted({arm.best_rate, *arm.chosen.values()})
    return "-".join(f"{rate:g}" for rate in (rates[0], rates[-1])[: len(rates)]) + (
        " edge" if arm.edges else ""
    )


def _row(arm: Any) -> list[str]:
    low, high = arm.overall_interval
    window = "none"
    if arm.window:
        first, last = arm.window
        least = "≥ " if arm.cut_off else ""
        window = (
            f"{first:g}"
            if first == last
            else f"{first:g}..{last:g} ({least}{arm.decades:.1f} decades)"
        )
    between = "-" if math.isnan(low) else f"{low:.3f}..{high:.3f}"
    return [
        arm.arm,
        share(arm.overall),
        between,
        best_rate(arm),
        share(arm.best),
        f"{arm.lock_in:.0%}",
        window,
        str(arm.seeds),
        str(arm.failed),
    ]


def _plain(comparison: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(comparison), "arms": [_arm(arm) for arm in comparison.arms]}


def _arm(arm: Any) -> dict[str, Any]:
    values = dataclasses.asdict(arm)
    for name in ("by_seed", "rates", "chosen"):
        values[name] = list(values[name].items())
    for name in ("overall_interval", "overall_spread", "best_interval", "best_spread"):
        low, high = values[name]
        values[name] = None if math.isnan(low) else [low, high]
    decades = None if arm.window is None else arm.decades
    return values | {"cut_off": arm.cut_off, "edges": list(arm.edges), "decades": decades}


COMMAND = CompareCommand
