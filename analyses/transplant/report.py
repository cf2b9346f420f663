"""The results: `python -m analyses.transplant.report RESULTS.json …` writes table.md and figure.svg beside itself."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.results_file import restore, runs_below
from ssmlens.cli import compare as comparison
from ssmlens.cli.transplant import displayed_scores, draw, rows
from ssmlens.runs.compare import compare
from ssmlens.runs.run import Run
from ssmlens.runs.students import students
from ssmlens.text_table import text_table

HERE = Path(__file__).parent


def main() -> None:
    """Read the results, write table and figure."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of table.md and figure.svg")
    parser.add_argument("--form", default="svg", help="of the figure: svg, png, pdf or html")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        about: dict[str, Any] = {}
        for file in arguments.results:
            about |= restore(file, Path(folder))
        runs = runs_below(Path(folder))
        (arguments.out / "table.md").write_text(tables(runs, about), encoding="utf-8")
        draw(
            students(runs),
            displayed_scores(about["by"]),
            arguments.out / f"figure.{arguments.form}",
            "light",
        )
    print(arguments.out)


def tables(runs: Sequence[Run], about: Mapping[str, Any]) -> str:
    """Tables of the students with their layers' scores, and of `compare` at each length."""
    ranks = {int(layer): rank for layer, rank in about["ranks"].items()}
    lengths = sorted({n for run in runs for n in run.metrics.lengths()})
    parts = [
        f"{len(runs)} runs. Scores are of the teacher's layer, before training. Characters right: mean over all rates "
        f"(least..most of the seeds), then each seed at the rate that is best for the others at length {lengths[0]}.",
        text_table(rows(students(runs), ranks, displayed_scores(about["by"])), form="markdown"),
    ]
    for length in lengths:
        compared = compare(runs, length=length)
        title = comparison.title(compared)
        parts += [
            f"**{title[:1].upper()}{title[1:]}**",
            text_table(comparison.rows(compared), form="markdown"),
        ]
        notes = (compared.verdict, *compared.notes)
        parts += [f"{note[:1].upper()}{note[1:]}." for note in notes]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
