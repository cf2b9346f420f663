"""Train the sixteen combinations of the mimetic components: 5 seeds, 4 learning rates, 320 runs of 1500 steps.

`python -m analyses.components.run --out runs/components [--results DIR] [--have EARLIER …]`, on a GPU, as often as it
takes: it goes on where it was, by the run folders in --out, results.json in --results (this folder) and the files in
--have. `analyses.components.report` makes the tables.
"""

from pathlib import Path

from analyses.components.arms import RATES, SEEDS, configs
from analyses.sitting import options, sit
from ssmlens.training.sweep import sweep


def main() -> None:
    """Train what is left to do."""
    assert __doc__
    asked = options(__doc__, Path(__file__).parent, RATES, SEEDS).parse_args()
    todo = configs(asked.rates, asked.seeds, asked.steps)
    sit(asked, lambda **where: sweep(todo, asked.out, **where))


if __name__ == "__main__":
    main()
