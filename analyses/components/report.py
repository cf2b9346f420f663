"""The results: `python -m analyses.components.report RESULTS.json …` writes table.md beside itself."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from analyses.results_file import restore, runs_below
from ssmlens.cli.compare import rows, title
from ssmlens.inits.mimetic import COMPONENTS
from ssmlens.runs.compare import ArmSummary, Comparison, compare
from ssmlens.runs.run import Run
from ssmlens.text_table import text_table

HERE = Path(__file__).parent


def main() -> None:
    """Read the results, write the tables."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for file in arguments.results:
            restore(file, Path(folder))
        arguments.out.write_text(tables(runs_below(Path(folder))), encoding="utf-8")
    print(arguments.out)


def tables(runs: Sequence[Run]) -> str:
    """Compare the arms at each length, and average each component's effect over the other three."""
    lengths = sorted({n for run in runs for n in run.metrics.lengths()})
    outcomes: list[tuple[str, int]] = [("char", n) for n in lengths]
    if lengths:
        outcomes.insert(1, ("string", lengths[0]))
    comparisons = [compare(runs, measure=measure, length=n) for measure, n in outcomes]
    parts = [f"{len(runs)} runs."]
    for it in comparisons:
        parts += [
            f"**{_capital(title(it))}**",
            text_table(rows(it), form="markdown"),
            *(f"{_capital(note)}." for note in (it.verdict, *it.notes)),
        ]
    parts += [
        "**What a component does** (mean over the arms with it, less that over those without)"
    ]
    parts += [text_table(effects(comparisons), form="markdown")]
    parts += ["**Characters right by learning rate**, mean (least..most of the seeds)"]
    for length in lengths:
        parts += [f"At length {length}:", text_table(by_rate(runs, length), form="markdown")]
    return "\n\n".join(parts) + "\n"


def effects(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """The main effect of every component in each comparison, over all rates and at each arm's best rate."""
    header = ["component"]
    for it in comparisons:
        header += [f"{it.measure} at {it.length}, all rates", "at best"]
    table = [header]
    for component in COMPONENTS:
        row = [component]
        for it in comparisons:
            with_it = [arm for arm in it.arms if component in _components(arm)]
            without = [arm for arm in it.arms if component not in _components(arm)]
            row += [
                _difference([arm.overall for arm in with_it], [arm.overall for arm in without]),
                _difference([arm.best for arm in with_it], [arm.best for arm in without]),
            ]
        table.append(row)
    return table


def by_rate(runs: Sequence[Run], length: int) -> list[list[str]]:
    """List the results of every arm at each learning rate."""
    rates = sorted({run.learning_rate for run in runs})
    table = [["arm", *(f"{rate:g}" for rate in rates)]]
    for arm in dict.fromkeys(run.arm for run in runs):
        row = [arm]
        for rate in rates:
            chosen = [run for run in runs if (run.arm, run.learning_rate) == (arm, rate)]
            shares = [run.metrics.final("char", length) for run in chosen]
            row.append(
                f"{fmean(shares):.2f} ({min(shares):.2f}..{max(shares):.2f})" if shares else "-"
            )
        table.append(row)
    return table


def _components(arm: ArmSummary) -> list[str]:
    """The components of an arm, from its name: "mimetic A+BC", "default"."""
    return arm.arm.partition(" ")[2].split("+")


def _difference(with_it: Sequence[float], without: Sequence[float]) -> str:
    return f"{fmean(with_it) - fmean(without):+.3f}" if with_it and without else "-"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    main()
