"""Measures of a model's predictions, one number per position; and their registry."""

import dataclasses
from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.registry import Registry


@dataclasses.dataclass(frozen=True)
class Readout:
    """A model's predictions at some positions of one prompt.

    Attributes:
        logits: Its logits there, in float64.
        unedited: The same without edits.
        right: The right token.
        foil: The token that it is compared with, −1 for none.
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
        measure: Computes the number at every position.
        needs_foil: Whether it compares the right token with a foil.
        of_change: Whether it measures the change itself, so that it is 0 without edits.
    """

    description: str
    unit: str
    measure: Callable[[Readout], Float[Tensor, " position"]]
    needs_foil: bool = False
    of_change: bool = False


MEASURES: Registry[Measure] = Registry("measure", "ssmlens.effect.measures")
