"""What came out: `python -m analyses.transplant.report RESULTS.json …` writes table.md and figure.svg beside itself."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.results_file import restore, runs_below
from ssmlens.cli import compare as comparison
from ssmlens.cli.transplant import draw, rows, shown
from ssmlens.store.runs import Run
from ssmlens.text_table import text_table
from ssmlens.training.compare import compare
from ssmlens.training.transplant import students

HERE = Path(__file__).parent


def main() -> None:
    """Read the results, write table and figure."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of table.md and figure.svg")
    parser.add_argument("--form", default="svg", help="of the figure: svg, png, pdf or html")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        about: dict[str, Any] = {}
        for file in asked.results:
            about |= restore(file, Path(folder))
        runs = runs_below(Path(folder))
        (asked.out / "table.md").write_text(tables(runs, about), encoding="utf-8")
        draw(students(runs), shown(about["by"]), asked.out / f"figure.{asked.form}", "light")
    print(asked.out)


def tables(runs: Sequence[Run], about: Mapping[str, Any]) -> str:
    """Students beside their layers' scores, and the arms as `compare` has them at each length."""
    ranks = {int(layer): rank for layer, rank in about["ranks"].items()}
    lengths = sorted({n for run in runs for n in run.metrics.lengths()})
    parts = [
        f"{len(runs)} runs. Scores are of the teacher's layer, before training. Each arm at the rate that is best for "
        f"length {lengths[0]}: characters right, mean (least..most of its seeds); then the mean over all rates.",
        text_table(rows(students(runs), ranks, shown(about["by"])), form="markdown"),
    ]
    for length in lengths:
        found = compare(runs, length=length)
        title = comparison.title(found)
        parts += [
            f"**{title[:1].upper()}{title[1:]}**",
            text_table(comparison.rows(found), form="markdown"),
        ]
        parts += [f"{found.verdict[:1].upper()}{found.verdict[1:]}."]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
