"""What is measured of what a model says: one number a position; and the registry of measures."""

import dataclasses
from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.registry import Registry


@dataclasses.dataclass(frozen=True)
class Readout:
    """What a model says at some positions of one prompt.

    Attributes:
        logits: Its logits there, in float64.
        unedited: The same without edits.
        right: The token that is right.
        foil: The token it is held against, −1 where there is none.
    """

    logits: Float[Tensor, "position vocabulary"]
    unedited: Float[Tensor, "position vocabulary"]
    right: Int[Tensor, " position"]
    foil: Int[Tensor, " position"]

    def of(self, tokens: Int[Tensor, " position"]) -> Float[Tensor, " position"]:
        """The logit of one token at each position."""
        return self.logits.gather(1, tokens.clamp(min=0).unsqueeze(1)).squeeze(1)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure.

    Attributes:
        description: One line, for legends.
        unit: "nats", "1", …
        measure: The number at every position.
        needs_foil: Whether it compares two tokens.
        of_change: Whether it is of the change itself, and 0 without edits.
    """

    description: str
    unit: str
    measure: Callable[[Readout], Float[Tensor, " position"]]
    needs_foil: bool = False
    of_change: bool = False


MEASURES: Registry[Measure] = Registry("measure", "ssmlens.effect.measures")
