"""What a layer does for the right next token, as a capture with effects measured it: not where it looks.

All are changes of the log-probability of the right next token (the token at the query's target), mean over the
prompt's queries with a target: after the edit minus before it. Range: −∞ to ∞. 0: the layer does not affect the answer;
negative: the layer helps; positive: it hurts. A model that must guess among V tokens cannot lose more, on average, than
its lead over 1/V. `ssmlens.effect.layers` measures them.
"""

import math
from collections.abc import Callable

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score

ABLATION, MEAN_ABLATION, CROSS_TALK = "ablation_effect", "mean_ablation_effect", "cross_talk_effect"

_EDITS = {
    ABLATION: "the output of the layer's mixer is set to 0",
    MEAN_ABLATION: "the output of the layer's mixer is set to its mean over the prompt",
    CROSS_TALK: "M is reduced to its diagonal",
}
EFFECTS = tuple(_EDITS)


def _reader(name: str) -> Callable[[Reading], Measured]:
    def measure(reading: Reading) -> Measured:
        if not reading.has(name):
            raise NotApplicable("captured without effects: see `further`")
        if reason := reading.attribute(f"{name}_reason"):
            raise NotApplicable(reason)
        _ = reading.target  # raises NotApplicable if the prompt has none
        value = reading.number(name)
        if math.isnan(value):
            raise NotApplicable("the model's logits are not finite")
        return Measured(value)

    return measure


for _name, _edit in _EDITS.items():
    SCORES.register(_name)(
        Score(
            description=f"change of the right next token's log-probability when {_edit}",
            measure=_reader(_name),
            reads="effects",
            range=(-math.inf, math.inf),
            unit="nats",
            higher_is_attention=False,
            formula=f"log-probability of the right next token if {_edit}, less that of the model as it is; mean "
            "over queries with a target",
            chance_in_words="none; 0: the layer does nothing for the answer",
        )
    )
