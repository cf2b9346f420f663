"""Content or position: how a model goes on after an n-gram that stands twice."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from analyses.components.exams import DUPLICATES, OTHER
from analyses.components.strata import Arm, Key, Outcome, arm_of, cells_by
from ssmlens.runs.run import Run

_COPIES = 0.5
"""Share of letters that an arm must say from one of the two places, so that the quotient says something."""


def content_cells(
    runs: Sequence[Run], n: int, length: int
) -> dict[Arm, Float[np.ndarray, " seed"]]:
    """`content_by` of every set of components."""
    return content_by(runs, n, length, arm_of)


def content_by(
    runs: Sequence[Run], n: int, length: int, key: Callable[[Run], Key]
) -> dict[Key, Float[np.ndarray, " seed"]]:
    """other / (right + other) by arm, a value a seed: 0 for position, .5 for content.

    Both shares are means over all rates. Arms in which a seed's sum is below one half do not copy, and are left out.
    """
    right, other = (
        cells_by(runs, Outcome("char", length, split.format(n)), key)
        for split in (DUPLICATES, OTHER)
    )
    values = {}
    for arm, ours in right.items():
        total = ours + other[arm]
        if len(total) and (total >= _COPIES).all():
            values[arm] = other[arm] / total
    return values
