"""The definition of a score, and the registry of scores: a new score is one new file in this folder."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from ssmlens.registry import Registry
from ssmlens.scores.reading import Reading


class Measured(NamedTuple):
    """A score of one layer on one prompt, and the detail that its companions need."""

    value: float
    detail: Any = None


@dataclasses.dataclass(frozen=True)
class Score:
    """One number for a layer and prompt, or for a layer if it reads only weights.

    Attributes:
        description: One line for a table's legend or a hover label.
        measure: Computes the number from one layer and prompt. Raises NotApplicable with the reason if
            there is none; a returned NaN means 0/0.
        reads: "weights" (one value per layer), "maps" (one value per prompt), "targets" (maps, on prompts
            of one kind), or "effects" (one value per prompt: the layer's effect, not its attention).
        range: Lowest and highest value the definition allows.
        unit: "1" for a share or a correlation, else a word such as "tokens".
        higher_is_attention: Whether a higher value is more attention-like and is ranked first.
        companions: Extra columns, one value per layer, each computed from the `detail` of every
            prompt that has a value.
        formula: How it is computed, in words, for the glossary.
        chance: What it is, on this layer and prompt, by chance: where every query looks at all the tokens that it can
            see alike, or where weights are drawn at random. Called only where `measure` gave a value. None: there is
            no such level.
        chance_in_words: How that is computed, or why there is none, for the glossary.
    """

    description: str
    measure: Callable[[Reading], Measured]
    reads: Literal["weights", "maps", "targets", "effects"]
    range: tuple[float, float]
    unit: str = "1"
    higher_is_attention: bool = True
    companions: Mapping[str, Callable[[list[Any]], float]] = dataclasses.field(default_factory=dict)
    formula: str = ""
    chance: Callable[[Reading], float] | None = None
    chance_in_words: str = "none"


SCORES: Registry[Score] = Registry("score", "ssmlens.scores")
