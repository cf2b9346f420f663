"""The number of tokens that are likelier than the right one."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(readout):
    above = readout.logits > readout.of(readout.right).unsqueeze(1)
    return above.sum(1).to(readout.logits.dtype)


MEASURES.register("rank")(
    Measure("tokens that are likelier than the right one", "tokens", _measure)
)
