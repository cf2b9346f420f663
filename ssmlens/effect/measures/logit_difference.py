"""The logit of the right token minus that of the foil."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(readout):
    return readout.of(readout.right) - readout.of(readout.foil)


MEASURES.register("logit_difference")(
    Measure("logit of the right token minus that of the foil", "1", _measure, needs_foil=True)
)
