"""Write the results of `conv_run`: table.md with the verdicts, and figure.svg.

`python -m analyses.components.conv_report RESULTS.json … [--out FOLDER]`. No number includes seeds whose grid is
incomplete. MAMBA2_CONV.md says which outcome leads to which conclusion.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from analyses.components.content import content_by
from analyses.components.conv_arms import ARMS, BASES, LENGTHS
from analyses.components.conv_figure import effects_figure
from analyses.components.conv_verdicts import (
    LEAST_SEEDS,
    PRIMARY,
    arm_name,
    complete_seeds,
    effects,
    verdicts,
)
from analyses.components.exams import DUPLICATES, FREE, NGRAMS, OTHER
from analyses.components.shares import mean, span, spread
from analyses.components.strata import Outcome, cells_by, difference
from analyses.results_file import restore, runs_below
from ssmlens.files.new import write_file
from ssmlens.plot.image import figure_file
from ssmlens.runs.run import Run
from ssmlens.text_table import text_table

SECONDARY = {
    **{f"characters at {n}": Outcome("char", n) for n in (50, 150, 300)},
    **{f"strings at {n}": Outcome("string", n) for n in (50, 100)},
    **{f"running freely at {n}": Outcome("char", n, FREE) for n in (50, 100, 300)},
}


def main() -> None:
    """Read the results, write tables and figure."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="default: the folder of the first of them")
    arguments = parser.parse_args()
    out = arguments.out or arguments.results[0].parent
    with tempfile.TemporaryDirectory() as folder:
        for file in arguments.results:
            restore(file, Path(folder))
        runs = runs_below(Path(folder))
    complete = complete_seeds(runs)
    (out / "table.md").write_text(tables(runs), encoding="utf-8")
    print(out / "table.md")
    if complete:
        by_length = {n: effects(cells_by(complete, Outcome("char", n), arm_name)) for n in LENGTHS}
        write_file(out / "figure.svg", figure_file(effects_figure(by_length), ".svg"))
        print(out / "figure.svg")


def tables(runs: Sequence[Run]) -> str:
    """Every table of the experiment's runs, as Markdown."""
    complete = complete_seeds(runs)
    parts = [_run_counts(runs, complete)]
    if not complete:
        return parts[0] + "\n"
    claims = verdicts(complete)
    few = f"No verdict: that takes {LEAST_SEEDS} whole seeds, and values of every arm."
    parts += ["**Verdicts**", _table([["claim", "verdict"], *map(list, claims.items())])]
    parts = parts if claims else [parts[0], few]
    parts += ["**Characters at 100, each arm less its base** (the primary outcome)"]
    parts += [_table(effect_rows(complete, PRIMARY))]
    for name, outcome in SECONDARY.items():
        parts += [f"**The same for {name}**", _table(effect_rows(complete, outcome))]
    parts += ["**Every arm**, mean (least..most of the seeds)", _table(arm_rows(complete))]
    parts += ["**After n-grams that stand twice**, means", _table(duplicate_rows(complete))]
    parts += ["**`content`**, and each arm less its base", _table(content_rows(complete))]
    for length in LENGTHS:
        title = f"**Characters at {length} by learning rate**"
        parts += [title, _table(rate_rows(complete, length))]
    return "\n\n".join(parts) + "\n"


def effect_rows(runs: Sequence[Run], outcome: Outcome) -> list[list[str]]:
    """Every arm's effect, with Holm's p if the arm is a half of a question."""
    table = [["arm", "less", "effect", "interval", "p", "Holm within the question"]]
    for arm, it in effects(cells_by(runs, outcome, arm_name)).items():
        corrected = f"{it.p:.2g}" if it.p != it.difference.p else ""
        row = [arm, BASES[arm], f"{it.difference.mean:+.3f}", span(it.difference.interval)]
        table.append([*row, f"{it.difference.p:.2g}", corrected])
    return table


def arm_rows(runs: Sequence[Run]) -> list[list[str]]:
    """List the results of every arm by characters, strings, and free running."""
    columns = {f"characters {n}": Outcome("char", n) for n in LENGTHS}
    columns |= {f"strings {n}": Outcome("string", n) for n in LENGTHS[:2]}
    columns |= {f"freely {n}": Outcome("char", n, FREE) for n in LENGTHS}
    values = [cells_by(runs, outcome, arm_name) for outcome in columns.values()]
    return [["arm", *columns], *([arm, *(spread(it.get(arm)) for it in values)] for arm in ARMS)]


def duplicate_rows(runs: Sequence[Run]) -> list[list[str]]:
    """List the shares of the right and the other place after n-grams that occur twice."""
    header, values = ["arm"], []
    for length in LENGTHS:
        for n in NGRAMS:
            header += [f"{length}, n={n}, right", "other"]
            for split in (DUPLICATES, OTHER):
                values.append(cells_by(runs, Outcome("char", length, split.format(n)), arm_name))
    return [header, *([arm, *(mean(it.get(arm)) for it in values)] for arm in ARMS)]


def content_rows(runs: Sequence[Run]) -> list[list[str]]:
    """other / (right + other) of the arms that copy, and its difference from the base's."""
    table = [["n", "letters", "arm", "content", "less", "effect", "interval", "p"]]
    for n in NGRAMS:
        for length in LENGTHS:
            values = content_by(runs, n, length, arm_name)
            for arm in ARMS:
                if arm not in values:
                    continue
                row, base = [str(n), str(length), arm, f"{values[arm].mean():.3f}"], BASES.get(arm)
                if base not in values:
                    table.append([*row, "", "", "", ""])
                    continue
                it = difference([(values[base], values[arm])])
                table.append([*row, base, f"{it.mean:+.3f}", span(it.interval), f"{it.p:.2g}"])
    return table


def rate_rows(runs: Sequence[Run], length: int) -> list[list[str]]:
    """List the results of every arm at each learning rate."""
    rates = sorted({run.learning_rate for run in runs})
    at_rate = [[run for run in runs if run.learning_rate == rate] for rate in rates]
    values = [cells_by(some, Outcome("char", length), arm_name) for some in at_rate]
    header = ["arm", *(f"{rate:g}" for rate in rates)]
    return [header, *([arm, *(spread(it.get(arm)) for it in values)] for arm in ARMS)]


def _run_counts(runs: Sequence[Run], complete: Sequence[Run]) -> str:
    """The first sentence of the page: how many runs there are, and how many failed or were examined."""
    seeds = sorted({run.seed for run in complete if run.seed is not None})
    failed = sum(run.status.state == "failed" for run in complete)
    examined = sum(FREE in run.metrics.splits for run in complete)
    left_out = f"; {len(runs) - len(complete)} runs of seeds that are not whole are left out"
    return (
        f"{len(complete)} runs of the seeds {', '.join(map(str, seeds)) or 'none'}, {failed} failed, "
        f"{examined} examined{left_out if len(complete) < len(runs) else ''}. "
        "All numbers are means over all learning rates."
    )


def _table(rows: list[list[str]]) -> str:
    return text_table(rows, form="markdown")


if __name__ == "__main__":
    main()
