"""What a layer does for the right next token, as a capture with effects measured it: not where it looks.

All are changes of the log-probability of the right next token (the token at the query's target), mean over the
prompt's queries with a target: after the edit minus before it. Range: −∞ to ∞; 0 for a layer that does nothing for
the answer, the more negative the more it does; positive where the layer hurts. A model that is left to guess among V
tokens cannot lose more, on average, than its lead over 1/V. How they are measured: `ssmlens.effect.layers`.
"""

import math
from collections.abc import Callable

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score

ABLATION, MEAN_ABLATION, CROSS_TALK = "ablation_effect", "mean_ablation_effect", "cross_talk_effect"

_WHAT_IS_EDITED = {
    ABLATION: "what the layer's mixer puts out is 0",
    MEAN_ABLATION: "what the layer's mixer puts out is its mean over the prompt",
    CROSS_TALK: "M is its diagonal alone",
}
EFFECTS = tuple(_WHAT_IS_EDITED)


def _reader(name: str) -> Callable[[Reading], Measured]:
    def measure(reading: Reading) -> Measured:
        if not reading.has(name):
            raise NotApplicable("captured without effects: see `further`")
        if reason := reading.attribute(f"{name}_reason"):
            raise NotApplicable(reason)
        _ = reading.target  # raises NotApplicable where the prompt has none
        value = reading.number(name)
        if math.isnan(value):
            raise NotApplicable("the model's logits are not finite")
        return Measured(value)

    return measure


for _name, _edited in _WHAT_IS_EDITED.items():
    SCORES.register(_name)(
        Score(
            description=f"change of the right next token's log-probability where {_edited}",
            measure=_reader(_name),
            reads="effects",
            range=(-math.inf, math.inf),
            unit="nats",
            higher_is_attention=False,
            formula=f"log-probability of the right next token if {_edited}, less that of the model as it is; mean "
            "over queries with a target",
            chance_in_words="none; 0: the layer does nothing for the answer",
        )
    )
