"""Train a student from every layer of the teacher, and from every layer's shuffled values, beside default and mimetic.

`python -m analyses.transplant.run --out runs/transplant [--results DIR] [--have EARLIER …]`, on a GPU, as often as it
takes: it goes on where it was, by the run folders in --out, results.json in --results (this folder) and the files in
--have. 10 arms, 3 seeds, 4 learning rates: 120 runs of 1500 steps. `analyses.transplant.report` makes table and figure.

Every layer has its own control. In a first run the copying layer's shuffled values nearly kept up with it, so that a
control of one layer alone would leave open whether that is so for this layer or for all: whether students follow the
scores because of a layer's structure, or because of how large its values are.
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
