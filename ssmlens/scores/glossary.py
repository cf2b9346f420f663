"""Every score in words: how it is computed, between which values it lies, and what it is by chance."""

import math
from typing import NamedTuple

from ssmlens.scores.score import SCORES, Score

_READS = ("targets", "maps", "weights", "effects")


class Entry(NamedTuple):
    """A score in words."""

    name: str
    formula: str
    range: str
    chance: str


def glossary() -> list[Entry]:
    """An entry for each registered score, those of other packages included: by what they read, then by name."""
    scores = sorted((_READS.index(SCORES[name].reads), name) for name in SCORES)
    return [_entry(name, SCORES[name]) for _, name in scores]


def _entry(name: str, score: Score) -> Entry:
    formula = score.formula or score.description
    return Entry(name, formula, _range(score), score.chance_in_words)


def _range(score: Score) -> str:
    """Such as "0 to 1", "0 tokens or more", "any number of nats; the lowest is ranked first"."""
    low, high = score.range
    unit = "" if score.unit == "1" else score.unit
    if math.isinf(low):
        text = f"any number of {unit}"
    elif math.isinf(high):
        text = f"{low:g} {unit} or more"
    else:
        text = f"{low:g} to {high:g} {unit}".strip().replace("-", "−")
    return text if score.higher_is_attention else f"{text}; the lowest is ranked first"
