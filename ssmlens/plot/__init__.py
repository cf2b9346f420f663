"""Draw plotly figures of a layer, a record, a capture, a ranking or runs.

>>> ssmlens.plot.map(cap.layer(3))
>>> ssmlens.plot.maps([rec[l] for l in rec.layers])
>>> ssmlens.plot.scores(ssmlens.rank_layers(cap))
"""

from ssmlens.extras import extra

with extra("plot", "ssmlens.plot"):
    from ssmlens.plot.of_attributions import attribution
    from ssmlens.plot.of_captures import closure, scores
    from ssmlens.plot.of_layers import (
        channel,
        erase,
        lag_profile,
        map,
        maps,
        mask,
        signals,
        softmax,
        weights,
    )
    from ssmlens.plot.of_runs import students, training

__all__ = [
    "attribution",
    "channel",
    "closure",
    "erase",
    "lag_profile",
    "map",
    "maps",
    "mask",
    "scores",
    "signals",
    "softmax",
    "students",
    "training",
    "weights",
]
