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
    text: str


def scored_weights(capture: Capture, layer: Layer) -> list[Number]:
    """The scores of a layer's weights, with their companions (`bc_z`, `bc_shift`), over all groups."""
    numbers = []
    for name in _SCORES:
        score = SCORES[name]
        reading = Reading(capture, layer)
        try:
            value, detail = score.measure(reading)
        except NotApplicable as reason:
            numbers.append(Number(name, math.nan, str(reason)))
            continue
        chance = "" if score.chance is None else f"; by chance {score.chance(reading):.3f}"
        numbers.append(Number(name, value, score.description + chance))
        numbers += [
            Number(companion, combine([detail]), f"{companion} of {name}")
            for companion, combine in score.companions.items()
        ]
    return numbers
