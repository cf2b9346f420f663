"""The results by stratum: `python -m analyses.components.strata_report RESULTS.json …` writes table.md beside it.

No number includes seeds whose grid is incomplete. MAMBA1.md says which outcome leads to which conclusion.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from analyses.components.arms import combinations
from analyses.components.content import content_cells
from analyses.components.exams import DUPLICATES, FREE, NGRAMS, OTHER
from analyses.components.shares import mean, spread
from analyses.components.strata import (
    CONTRASTS,
    Arm,
    Cells,
    Outcome,
    arm_of,
    cells,
    effect,
    holm,
)
from analyses.results_file import restore, runs_below
from ssmlens.runs.run import Run
from ssmlens.text_table import text_table

LENGTHS = (50, 100, 150)
PRIMARY = Outcome("char", 100)
SECONDARY = {
    "characters at 50": Outcome("char", 50),
    "characters at 150": Outcome("char", 150),
    "strings at 50": Outcome("string", 50),
    "strings at 100": Outcome("string", 100),
    "running freely at 50": Outcome("char", 50, FREE),
    "running freely at 100": Outcome("char", 100, FREE),
}


def _table(rows: list[list[str]]) -> str:
    return text_table(rows, form="markdown")


def main() -> None:
    """Read the results, write the tables."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="default: table.md beside the first of them")
    arguments = parser.parse_args()
    out = arguments.out or arguments.results[0].with_name("table.md")
    with tempfile.TemporaryDirectory() as folder:
        for file in arguments.results:
            restore(file, Path(folder))
        out.write_text(tables(runs_below(Path(folder))), encoding="utf-8")
    print(out)


def tables(runs: Sequence[Run]) -> str:
    """Every table of an experiment's runs, as Markdown."""
    complete = complete_seeds(runs)
    seeds = sorted({run.seed for run in complete if run.seed is not None})
    failed = sum(run.status.state == "failed" for run in complete)
    examined = sum(FREE in run.metrics.splits for run in complete)
    left_out = f"; {len(runs) - len(complete)} runs of seeds that are not whole are left out"
    parts = [
        f"{len(complete)} runs of the seeds {', '.join(map(str, seeds)) or 'none'}, {failed} failed, "
        f"{examined} examined{left_out if len(complete) < len(runs) else ''}. "
        "All numbers are means over all learning rates."
    ]
    if not complete:
        return parts[0] + "\n"
    parts += [
        "**What each component does to characters at 100** (the primary outcome)",
        _table(effects(complete, PRIMARY, corrected=True)),
    ]
    for name, outcome in SECONDARY.items():
        rows = effects(complete, outcome)
        if len(rows) > 1:
            parts += [f"**The same for {name}**", _table(rows)]
    parts += ["**Every arm**, mean (least..most of the seeds)", _table(arms(complete))]
    parts += ["**After n-grams that stand twice**, means", _table(duplicates(complete))]
    parts += [
        "**What the convolution does to `content`, in arms with A**",
        _table(content(complete)),
    ]
    for length in LENGTHS:
        parts += [f"**Characters at {length} by learning rate**", _table(by_rate(complete, length))]
    return "\n\n".join(parts) + "\n"


def complete_seeds(runs: Sequence[Run]) -> list[Run]:
    """The runs of those seeds that have a run for every set of components and every rate."""
    grids: dict[int | None, set[tuple[Arm, float]]] = {}
    for run in runs:
        grids.setdefault(run.seed, set()).add((arm_of(run), run.learning_rate))
    rates = {run.learning_rate for run in runs}
    most = len(combinations()) * len(rates)
    return [run for run in runs if len(grids[run.seed]) == most]


def effects(runs: Sequence[Run], outcome: Outcome, corrected: bool = False) -> list[list[str]]:
    """The effect of every component in every stratum. `corrected` adds a column with Holm's p."""
    values = cells(runs, outcome)
    computed = [it for contrast in CONTRASTS if (it := effect(values, contrast)) is not None]
    header = ["component", "stratum", "effect", "interval", "p"]
    table = [[*header, "Holm"] if corrected else header]
    for it, adjusted in zip(computed, holm([it.p for it in computed]), strict=True):
        low, high = it.interval
        row = [it.contrast.component, it.contrast.stratum, f"{it.mean:+.3f}"]
        row += [f"{low:+.3f}..{high:+.3f}", f"{it.p:.2g}"]
        table.append([*row, f"{adjusted:.2g}"] if corrected else row)
    return table


def arms(runs: Sequence[Run]) -> list[list[str]]:
    """List the results of every arm by characters, strings, and free running."""
    columns = {f"characters {n}": Outcome("char", n) for n in LENGTHS}
    columns |= {f"strings {n}": Outcome("string", n) for n in LENGTHS[:2]}
    columns |= {f"freely {n}": Outcome("char", n, FREE) for n in LENGTHS}
    values = {name: cells(runs, outcome) for name, outcome in columns.items()}
    table = [["arm", *columns]]
    for arm in _arms(values[f"characters {LENGTHS[1]}"]):
        table.append([_name(arm), *(spread(values[name].get(arm)) for name in columns)])
    return table


def duplicates(runs: Sequence[Run]) -> list[list[str]]:
    """List the shares of the right and the other place after n-grams that occur twice, and of plain strings."""
    header, columns = ["arm"], []
    for length in LENGTHS[:2]:
        header.append(f"characters {length}")
        columns.append(cells(runs, Outcome("char", length)))
        for n in NGRAMS:
            header += [f"n={n}, right", "other"]
            columns += [
                cells(runs, Outcome("char", length, split.format(n)))
                for split in (DUPLICATES, OTHER)
            ]
    rows = [
        [_name(arm), *(mean(values.get(arm)) for values in columns)] for arm in _arms(columns[3])
    ]
    return [header, *rows]


def content(runs: Sequence[Run]) -> list[list[str]]:
    """The effect of conv on other / (right + other), over the pairs of arms in which both copy."""
    (contrast,) = (it for it in CONTRASTS if (it.component, it.stratum) == ("conv", "with A"))
    table = [["n", "letters", "without conv", "with conv", "effect", "interval", "p", "pairs"]]
    for n in NGRAMS:
        for length in LENGTHS[:2]:
            values = content_cells(runs, n, length)
            pairs = [(a, b) for a, b in contrast.pairs() if a in values and b in values]
            it = effect(values, contrast, pairs)
            if it is None:
                continue
            sides = [fmean(float(values[pair[side]].mean()) for pair in pairs) for side in (0, 1)]
            low, high = it.interval
            row = [str(n), str(length), *(f"{side:.3f}" for side in sides), f"{it.mean:+.3f}"]
            table.append([*row, f"{low:+.3f}..{high:+.3f}", f"{it.p:.2g}", str(it.pairs)])
    return table


def by_rate(runs: Sequence[Run], length: int) -> list[list[str]]:
    """List the results of every arm at each learning rate."""
    rates = sorted({run.learning_rate for run in runs})
    values = {}
    for rate in rates:
        at_rate = [run for run in runs if run.learning_rate == rate]
        values[rate] = cells(at_rate, Outcome("char", length))
    rows = [
        [_name(arm), *(spread(values[r].get(arm)) for r in rates)]
        for arm in _arms(values[rates[0]])
    ]
    return [["arm", *(f"{rate:g}" for rate in rates)], *rows]


def _arms(values: Cells) -> list[Arm]:
    """The arms with values, the best first."""
    return sorted(values, key=lambda arm: -float(values[arm].mean()) if len(values[arm]) else 0.0)


def _name(arm: Arm) -> str:
    (name,) = ("+".join(chosen) for chosen in combinations() if frozenset(chosen) == arm)
    return name or "default"


if __name__ == "__main__":
    main()
