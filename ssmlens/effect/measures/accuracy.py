"""Whether the right token is the most likely one."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(readout):
    return (readout.logits.argmax(1) == readout.right).to(readout.logits.dtype)


MEASURES.register("accuracy")(
    Measure("share of targets where the right token is the most likely one", "1", _measure)
)
