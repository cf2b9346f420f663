"""Content or position: how a model continues after an n-gram that occurs twice."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from analyses.components.exams import DUPLICATES, OTHER
from analyses.components.strata import Arm, Key, Outcome, arm_of, cells_by
from ssmlens.runs.run import Run

_COPIES = 0.5
"""The least share of letters that an arm must take from one of the two places; below it the quotient means nothing."""


def content_cells(
    runs: Sequence[Run], n: int, length: int
) -> dict[Arm, Float[np.ndarray, " seed"]]:
    """`content_by` of every set of components."""
    return content_by(runs, n, length, arm_of)


def content_by(
    runs: Sequence[Run], n: int, length: int, key: Callable[[Run], Key]
) -> dict[Key, Float[np.ndarray, " seed"]]:
    """other / (right + other) by arm, one value per seed: 0 for position, .5 for content.

    Both shares are means over all rates. If any seed's sum is below one half, the arm does not copy and is left out.
    """
    right, other = (
        cells_by(runs, Outcome("char", length, split.format(n)), key)
        for split in (DUPLICATES, OTHER)
    )
    values = {}
    for arm, share in right.items():
        total = share + other[arm]
        if len(total) and (total >= _COPIES).all():
            values[arm] = other[arm] / total
    return values
