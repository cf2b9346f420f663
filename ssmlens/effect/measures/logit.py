"""The logit of the right token."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(said):
    return said.of(said.right)


MEASURES.register("logit")(Measure("logit of the right token", "1", _measure))
