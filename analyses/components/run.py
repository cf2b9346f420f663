"""Train the sixteen combinations of the mimetic components: 5 seeds, 4 learning rates, 320 runs of 1500 steps.

`python -m analyses.components.run --out runs/components [--generation mamba1] [--results DIR] [--have EARLIER …]`, on a
GPU. Repeat it until all runs have ended: it resumes from the run folders in --out, from results.json in --results
(default: the generation's folder) and from the files in --have. Mamba-2's runs have no exams; each of Mamba-1's runs is
examined when it has ended (`exams`). `analyses.components.report` and `analyses.components.strata_report` make the
tables.
"""

from pathlib import Path

from analyses.components.arms import MODELS, RATES, SEEDS, configs
from analyses.components.work import sit_and_examine
from analyses.sitting import options, sit
from ssmlens.training.sweep import sweep

HERE = Path(__file__).parent
RESULTS = {"mamba2": HERE, "mamba1": HERE / "mamba1"}


def main() -> None:
    """Train the missing runs."""
    assert __doc__
    parser = options(__doc__, None, RATES, SEEDS)
    parser.add_argument("--generation", choices=list(MODELS), default="mamba2")
    arguments = parser.parse_args()
    arguments.results = arguments.results or RESULTS[arguments.generation]
    todo = configs(arguments.rates, arguments.seeds, arguments.steps, arguments.generation)
    if arguments.generation == "mamba2":
        sit(arguments, lambda **where: sweep(todo, arguments.out, **where))
        return
    sit_and_examine(arguments, todo)


if __name__ == "__main__":
    main()
