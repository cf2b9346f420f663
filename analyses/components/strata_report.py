"""The results by stratum: `python -m analyses.components.strata_report RESULTS.json …` writes table.md beside it.

Seeds whose grid is not whole are left out of every number. MAMBA1.md says what is concluded from which outcome.
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
    asked = parser.parse_args()
    out = asked.out or asked.results[0].with_name("table.md")
    with tempfile.TemporaryDirectory() as folder:
        for file in asked.results:
            restore(file, Path(folder))
        out.write_text(tables(runs_below(Path(folder))), encoding="utf-8")
    print(out)


def tables(runs: Sequence[Run]) -> str:
    """Every table of an experiment's runs, as Markdown."""
    kept = whole_seeds(runs)
    seeds = sorted({run.seed for run in kept if run.seed is not None})
    failed = sum(run.status.state == "failed" for run in kept)
    asked = sum(FREE in run.metrics.splits for run in kept)
    left_out = f"; {len(runs) - len(kept)} runs of seeds that are not whole are left out"
    parts = [
        f"{len(kept)} runs of the seeds {', '.join(map(str, seeds)) or 'none'}, {failed} failed, {asked} examined"
        f"{left_out if len(kept) < len(runs) else ''}. All numbers are means over all learning rates."
    ]
    if not kept:
        return parts[0] + "\n"
    parts += [
        "**What each component does to characters at 100** (the primary outcome)",
        _table(effects(kept, PRIMARY, corrected=True)),
    ]
    for name, outcome in SECONDARY.items():
        found = effects(kept, outcome)
        if len(found) > 1:
            parts += [f"**The same for {name}**", _table(found)]
    parts += ["**Every arm**, mean (least..most of the seeds)", _table(arms(kept))]
    parts += ["**After n-grams that stand twice**, means", _table(duplicates(kept))]
    parts += ["**What the convolution does to `content`, in arms with A**", _table(content(kept))]
    for length in LENGTHS:
        parts += [f"**Characters at {length} by learning rate**", _table(by_rate(kept, length))]
    return "\n\n".join(parts) + "\n"


def whole_seeds(runs: Sequence[Run]) -> list[Run]:
    """The runs of those seeds that have a run for every set of components and every rate."""
    grids: dict[int | None, set[tuple[Arm, float]]] = {}
    for run in runs:
        grids.setdefault(run.seed, set()).add((arm_of(run), run.learning_rate))
    rates = {run.learning_rate for run in runs}
    most = len(combinations()) * len(rates)
    return [run for run in runs if len(grids[run.seed]) == most]


def effects(runs: Sequence[Run], outcome: Outcome, corrected: bool = False) -> list[list[str]]:
    """The effect of every component in every stratum; `corrected`: with Holm's p beside the plain one."""
    values = cells(runs, outcome)
    found = [it for contrast in CONTRASTS if (it := effect(values, contrast)) is not None]
    header = ["component", "stratum", "effect", "interval", "p"]
    table = [[*header, "Holm"] if corrected else header]
    for it, adjusted in zip(found, holm([it.p for it in found]), strict=True):
        low, high = it.interval
        row = [it.contrast.component, it.contrast.stratum, f"{it.mean:+.3f}"]
        row += [f"{low:+.3f}..{high:+.3f}", f"{it.p:.2g}"]
        table.append([*row, f"{adjusted:.2g}"] if corrected else row)
    return table


def arms(runs: Sequence[Run]) -> list[list[str]]:
    """What every arm reaches, by characters at each length, strings, and running freely."""
    columns = {f"characters {n}": Outcome("char", n) for n in LENGTHS}
    columns |= {f"strings {n}": Outcome("string", n) for n in LENGTHS[:2]}
    columns |= {f"freely {n}": Outcome("char", n, FREE) for n in LENGTHS}
    found = {name: cells(runs, outcome) for name, outcome in columns.items()}
    table = [["arm", *columns]]
    for arm in _arms(found[f"characters {LENGTHS[1]}"]):
        table.append([_name(arm), *(spread(found[name].get(arm)) for name in columns)])
    return table


def duplicates(runs: Sequence[Run]) -> list[list[str]]:
    """Right and other place after n-grams that stand twice, beside characters of plain strings."""
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
    rows = [[_name(arm), *(mean(found.get(arm)) for found in columns)] for arm in _arms(columns[3])]
    return [header, *rows]


def content(runs: Sequence[Run]) -> list[list[str]]:
    """The effect of conv on other / (right + other), over those pairs of arms that both copy."""
    (contrast,) = (it for it in CONTRASTS if (it.component, it.stratum) == ("conv", "with A"))
    table = [["n", "letters", "without conv", "with conv", "effect", "interval", "p", "pairs"]]
    for n in NGRAMS:
        for length in LENGTHS[:2]:
            values = content_cells(runs, n, length)
            pairs = [(a, b) for a, b in contrast.pairs() if a in values and b in values]
            found = effect(values, contrast, pairs)
            if found is None:
                continue
            sides = [fmean(float(values[pair[side]].mean()) for pair in pairs) for side in (0, 1)]
            low, high = found.interval
            row = [str(n), str(length), *(f"{side:.3f}" for side in sides), f"{found.mean:+.3f}"]
            table.append([*row, f"{low:+.3f}..{high:+.3f}", f"{found.p:.2g}", str(found.pairs)])
    return table


def by_rate(runs: Sequence[Run], length: int) -> list[list[str]]:
    """What every arm reaches at each learning rate."""
    rates = sorted({run.learning_rate for run in runs})
    found = {}
    for rate in rates:
        at_rate = [run for run in runs if run.learning_rate == rate]
        found[rate] = cells(at_rate, Outcome("char", length))
    rows = [
        [_name(arm), *(spread(found[r].get(arm)) for r in rates)] for arm in _arms(found[rates[0]])
    ]
    return [["arm", *(f"{rate:g}" for rate in rates)], *rows]


def _arms(values: Cells) -> list[Arm]:
    """Those that there are, the best first."""
    return sorted(values, key=lambda arm: -float(values[arm].mean()) if len(values[arm]) else 0.0)


def _name(arm: Arm) -> str:
    (name,) = ("+".join(chosen) for chosen in combinations() if frozenset(chosen) == arm)
    return name or "default"


if __name__ == "__main__":
    main()
