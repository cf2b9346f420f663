"""The scores of a layer's weights, one by one."""

import math
from typing import NamedTuple

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES
from ssmlens.store import Capture, Layer

_SCORES = ("bc_correlation", "bc_effective", "bc_identity")


class Number(NamedTuple):
    """A score of weights: its name, value and what it means, or why it has none."""

    name: str
    value: float
    told: str


def scored_weights(capture: Capture, layer: Layer) -> list[Number]:
    """The scores of a layer's weights, with their companions (`bc_z`, `bc_shift`), over all groups."""
    told = []
    for name in _SCORES:
        score = SCORES[name]
        try:
            value, detail = score.measure(Reading(capture, layer))
        except NotApplicable as reason:
            told.append(Number(name, math.nan, str(reason)))
            continue
        told.append(Number(name, value, score.description))
        told += [
            Number(companion, combine([detail]), f"{companion} of {name}")
            for companion, combine in score.companions.items()
        ]
    return told
