"""`ssmlens compare`."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import tyro

from ssmlens.cli.command import Result
from ssmlens.text_table import text_table


@dataclasses.dataclass(frozen=True)
class CompareCommand:
    """Compare the arms of a sweep, each at its best learning rate, and call a winner only where that is fair.

    A run locks in when it reaches --threshold. The window is the row of learning rates around the best at which at
    least half of the seeds do, ≥ where it ends with the rates that were tried. Of 95 % is Student's t over seeds.
    """

    sweep: tyro.conf.Positional[Path]
    """The folder of the sweep."""
    length: int | None = None
    """Where accuracy is measured. Default: the training length."""
    choose_at: int | None = None
    """The length that each arm's best learning rate is chosen at. Default: the training length."""
    measure: Literal["char", "string", "char_free", "string_free"] = "char"
    """Share of characters, or of whole strings, that are right; _free: where the model reads its own answers."""
    threshold: float = 0.9
    """What a run that has locked in reaches."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Do it."""
        from ssmlens.store.runs import find_runs, open_run
        from ssmlens.training.compare import compare

        runs = [open_run(path) for path in find_runs(self.sweep)]
        found = compare(
            runs,
            measure=self.measure,
            length=self.length,
            choose_at=self.choose_at,
            threshold=self.threshold,
        )
        text = "\n".join([title(found), text_table(rows(found)), found.verdict])
        return Result(_plain(found), text)


def title(found: Any) -> str:
    """What a comparison is of, in a line."""
    from ssmlens.store.run_metrics import SHARES

    chosen = "" if found.chosen_at == found.length else f", rates chosen at {found.chosen_at}"
    return f"{SHARES[found.measure]} at length {found.length}{chosen}"


def rows(found: Any) -> list[list[str]]:
    """A comparison as a table: a header, then a row an arm, the best first."""
    header = ["arm", "best rate", "mean", "95 %", "lock-in", "window", "all rates", "seeds"]
    return [[*header, "failed"], *map(_row, found.arms)]


def _row(arm: Any) -> list[str]:
    low, high = arm.interval
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
    locked = f"{arm.lock_in:.0%}"
    cells = [arm.arm, f"{arm.best_rate:g}", f"{arm.mean:.3f}", between, locked, window]
    return [*cells, f"{arm.overall:.3f}", str(arm.seeds), str(arm.failed)]


def _plain(found: Any) -> dict[str, Any]:
    arms = []
    for arm in found.arms:
        told = dataclasses.asdict(arm)
        told["rates"] = [[rate, mean] for rate, mean in arm.rates.items()]
        told["interval"] = None if math.isnan(arm.interval[0]) else list(arm.interval)
        told["deviation"] = None if math.isnan(arm.deviation) else arm.deviation
        told["overall"] = arm.overall
        told["cut_off"] = arm.cut_off
        told["decades"] = None if arm.window is None else arm.decades
        arms.append(told)
    return {**dataclasses.asdict(found), "arms": arms}


COMMAND = CompareCommand
