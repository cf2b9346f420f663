"""Check what a file keeps of the heads of softmax attention against the mean of their maps.

The maps of heads are not kept. But no weight is negative: the mean over heads of what each gives some keys is what the
mean map gives them. And no weight is above 1: the mean of squares lies between the square of the mean and the mean.
"""

import numpy as np
from jaxtyping import Bool, Float64, Integer

from ssmlens.scan.reach import first_late
from ssmlens.store.layer import Layer


def head_problems(
    layer: Layer,
    prompt: int,
    shares: Float64[np.ndarray, "query key"],
    target: Integer[np.ndarray, " query"] | None,
    separator: Bool[np.ndarray, " query"],
    tolerance: float,
) -> list[str]:
    """Which arrays of heads are not those of heads with this mean map.

    Args:
        layer: A layer with softmax attention.
        prompt: Number of a prompt.
        shares: The mean map of its heads.
        target: Where each query must look, −1 for nowhere.
        separator: Which tokens are separators.
        tolerance: Largest difference, in shares.
    """
    queries = np.arange(len(shares))
    looks = np.full_like(queries, -1) if target is None else target
    between = separator & (queries > 0) & (queries < queries[:, None])
    wanted = {
        "head_row_magnitude": shares.sum(1),
        "head_target_magnitude": np.where(looks >= 0, shares[queries, looks], 0),
        "head_previous_magnitude": np.concatenate([[0], shares.diagonal(-1)]),
        "head_first_magnitude": shares[:, 0],
        "head_separator_magnitude": np.where(between, shares, 0).sum(1),
    }
    found = [
        name
        for name, mean in wanted.items()
        if name in layer and not np.abs(layer.read(name, prompt).mean(0) - mean).max() <= tolerance
    ]
    if "head_lag_energy" in layer:
        energy = layer.read("head_lag_energy", prompt).mean(0)
        by_lag = [shares.diagonal(-lag) for lag in queries]
        least = [np.square(entries).mean() for entries in by_lag]
        most = [entries.mean() for entries in by_lag]
        inside = (energy >= np.array(least) - tolerance) & (energy <= np.array(most) + tolerance)
        found += [] if inside.all() else ["head_lag_energy"]
    if "head_reach" in layer:
        reach, late = layer.read("head_reach", prompt), queries >= first_late(len(queries))
        inside = np.where(late, (reach >= 0) & (reach <= queries), reach == -1)
        found += [] if inside.all() and (reach == np.round(reach)).all() else ["head_reach"]
    return [f"prompt {prompt}: {name} is not that of heads with this mean map" for name in found]
