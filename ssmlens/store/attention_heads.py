"""Check the stored statistics of softmax attention heads against the mean of their maps.

The maps of single heads are not stored. Weights are not negative, so the mean over heads of the weight on some keys
equals the mean map's weight on them. Weights are at most 1, so a mean of squares lies between the squared mean and the
mean.
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
    """List the head statistics that disagree with the mean map.

    Args:
        layer: A layer with softmax attention.
        prompt: Number of a prompt.
        shares: The mean map of its heads.
        target: The key that each query must attend to, −1 for none.
        separator: Which tokens are separators.
        tolerance: Largest difference of a weight.
    """
    queries = np.arange(len(shares))
    keys = np.full_like(queries, -1) if target is None else target
    between = separator & (queries > 0) & (queries < queries[:, None])
    expected = {
        "head_row_magnitude": shares.sum(1),
        "head_target_magnitude": np.where(keys >= 0, shares[queries, keys], 0),
        "head_previous_magnitude": np.concatenate([[0], shares.diagonal(-1)]),
        "head_first_magnitude": shares[:, 0],
        "head_separator_magnitude": np.where(between, shares, 0).sum(1),
    }
    wrong = [
        name
        for name, mean in expected.items()
        if name in layer and not np.abs(layer.read(name, prompt).mean(0) - mean).max() <= tolerance
    ]
    if "head_lag_energy" in layer:
        energy = layer.read("head_lag_energy", prompt).mean(0)
        by_lag = [shares.diagonal(-lag) for lag in queries]
        least = [np.square(entries).mean() for entries in by_lag]
        most = [entries.mean() for entries in by_lag]
        inside = (energy >= np.array(least) - tolerance) & (energy <= np.array(most) + tolerance)
        wrong += [] if inside.all() else ["head_lag_energy"]
    if "head_reach" in layer:
        reach, late = layer.read("head_reach", prompt), queries >= first_late(len(queries))
        inside = np.where(late, (reach >= 0) & (reach <= queries), reach == -1)
        wrong += [] if inside.all() and (reach == np.round(reach)).all() else ["head_reach"]
    return [f"prompt {prompt}: {name} is not that of heads with this mean map" for name in wrong]
