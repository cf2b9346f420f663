"""Split the effect of Mamba-2's identity convolution: 13 arms, 3 learning rates, 5 seeds, 195 runs of 1500 steps.

`python -m analyses.components.conv_run --out runs/mamba2_conv [--results DIR] [--have EARLIER …]`, on a GPU. Repeat it
until all runs have ended: it resumes as `analyses.components.run` does. `analyses.components.conv_report` makes the
tables and the figure.
"""

from pathlib import Path

from analyses.components.arms import SEEDS
from analyses.components.conv_arms import RATES, configs
from analyses.components.work import sit_and_examine
from analyses.sitting import options

RESULTS = Path(__file__).parent / "mamba2_conv"


def main() -> None:
    """Train the missing runs."""
    assert __doc__
    arguments = options(__doc__, RESULTS, RATES, SEEDS).parse_args()
    sit_and_examine(arguments, configs(arguments.rates, arguments.seeds, arguments.steps))


if __name__ == "__main__":
    main()
