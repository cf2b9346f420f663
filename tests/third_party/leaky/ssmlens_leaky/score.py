"""Share of a layer's map that falls on the token before the query."""

import numpy as np

from ssmlens.scores.score import SCORES, Measured, Score


def measure(reading):
    size = np.abs(reading.attention_map)
    return Measured(float(np.trace(size, offset=-1) / size.sum()))


SCORES.register("previous_share")(
    Score(
        description="share of |map| on the token before",
        measure=measure,
        reads="maps",
        range=(0.0, 1.0),
        formula="the sum of |map| at lag 1, out of the sum of all",
        chance=lambda reading: float((1 / reading.visible)[1:].sum() / len(reading.visible)),
        chance_in_words="the sum of 1/(i+1) over i > 0, out of T: uniform rows",
    )
)
