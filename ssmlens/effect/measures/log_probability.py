"""The log-probability of the right token."""

from ssmlens.effect.measure import MEASURES, Measure


def _measure(readout):
    return readout.of(readout.right) - readout.logits.logsumexp(1)


MEASURES.register("log_probability")(
    Measure("log-probability of the right token", "nats", _measure)
)
