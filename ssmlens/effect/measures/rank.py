"""How many tokens are more likely than the right one."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(said):
    above = said.logits > said.of(said.right).unsqueeze(1)
    return above.sum(1).to(said.logits.dtype)


MEASURES.register("rank")(
    Measure("tokens that are likelier than the right one", "tokens", _measure)
)
