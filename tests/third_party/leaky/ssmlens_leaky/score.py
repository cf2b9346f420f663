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
    )
)
