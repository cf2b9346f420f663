"""The glossary has every score, also one from elsewhere, and its ranges in words are those of the registry."""

import itertools
import math

from ssmlens.scores.glossary import glossary
from ssmlens.scores.score import SCORES, Measured, Score


def test_every_score_is_there_with_its_range():
    entries = {entry.name: entry for entry in glossary()}
    assert set(entries) == set(SCORES)
    reads = [SCORES[name].reads for name in entries]
    assert list(dict.fromkeys(reads)) == ["targets", "maps", "weights", "effects"]
    assert len(list(itertools.groupby(reads))) == 4
    assert entries["copy_score"].range == "0 to 1"
    assert entries["bc_effective"].range == "−1 to 1"
    assert entries["receptive_field"].range == "0 tokens or more"
    lowest = "any number of nats; the lowest is ranked first"
    assert entries["ablation_effect"].range == lowest
    for name, entry in entries.items():
        assert entry.formula == SCORES[name].formula
        assert entry.chance == SCORES[name].chance_in_words
        assert ("or more" in entry.range) == (SCORES[name].range == (0, math.inf))


def test_a_score_that_says_nothing_of_itself_has_its_description():
    try:
        SCORES.register("half")(
            Score("a half", lambda reading: Measured(0.5), reads="maps", range=(0.0, 0.5), unit="m")
        )
        entry = next(entry for entry in glossary() if entry.name == "half")
        assert entry == ("half", "a half", "0 to 0.5 m", "none")
    finally:
        del SCORES._entries["half"]
