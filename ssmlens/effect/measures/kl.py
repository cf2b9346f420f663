"""KL divergence of the edited prediction from the unedited one: Σ p log (p / q), p without edits and q with them."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(readout):
    before, after = (logits.log_softmax(1) for logits in (readout.unedited, readout.logits))
    return (before.exp() * (before - after)).nansum(1)


MEASURES.register("kl")(
    Measure(
        "KL divergence of the prediction from the unedited one", "nats", _measure, of_change=True
    )
)
