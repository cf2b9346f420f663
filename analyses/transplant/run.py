"""Train students from every layer of the teacher, from every layer's shuffled values, and by default and mimetic inits.

`python -m analyses.transplant.run --out runs/transplant [--results DIR] [--have EARLIER …]`, on a GPU. Repeat it until
all runs have ended: it resumes from the run folders in --out, from results.json in --results (default: this folder) and
from the files in --have. 10 arms, 3 seeds, 4 learning rates: 120 runs of 1500 steps. `analyses.transplant.report` makes
the table and the figure.

Every layer has its own control. In a first run, students from the copying layer's shuffled values were nearly as good
as those from the layer itself. A control of this layer alone would not show whether that holds for every layer: whether
students follow the scores because of a layer's structure or because of the size of its values.
"""

import dataclasses
from pathlib import Path
from typing import Any

import ssmlens
from analyses.sitting import options, sit
from analyses.transplant.experiment import RATES, SEEDS, STUDENT, TEACHER
from ssmlens.training.transplant import transplant


def main() -> None:
    """Train the missing runs."""
    assert __doc__
    arguments = options(__doc__, Path(__file__).parent, RATES, SEEDS).parse_args()
    student = dataclasses.replace(STUDENT, steps=arguments.steps or STUDENT.steps)
    grid: dict[str, Any] = {"rates": arguments.rates, "seeds": arguments.seeds, "controls": "all"}

    def about() -> dict[str, Any]:
        if not (arguments.out / "teacher.h5").exists():  # stopped before the teacher was captured
            return {}
        with ssmlens.open_capture(arguments.out / "teacher.h5") as capture:
            ranking = ssmlens.rank_layers(capture)
        ranks = {str(row.layer): row.rank for row in ranking}
        return {"teacher": TEACHER, "by": list(ranking.by), "ranks": ranks}

    sit(
        arguments,
        lambda **where: transplant(TEACHER, student, arguments.out, **grid, **where),
        about,
    )


if __name__ == "__main__":
    main()
