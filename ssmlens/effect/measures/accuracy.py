"""Whether the right token is the most likely one."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(said):
    return (said.logits.argmax(1) == said.right).to(said.logits.dtype)


MEASURES.register("accuracy")(
    Measure("share of targets where the right token is the most likely one", "1", _measure)
)
