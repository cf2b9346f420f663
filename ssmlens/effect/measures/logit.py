"""The logit of the right token."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(readout):
    return readout.of(readout.right)


MEASURES.register("logit")(Measure("logit of the right token", "1", _measure))
