"""The logit of the right token less that of another one."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(said):
    return said.of(said.right) - said.of(said.foil)


MEASURES.register("logit_difference")(
    Measure("logit of the right token less that of the foil", "1", _measure, needs_foil=True)
)
