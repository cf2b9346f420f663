"""The statistics of maps and masks that map scores need. Captures of long prompts store these instead of whole maps."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from ssmlens.scan.reach import first_late


def energy_by_lag(attention_map: Float[np.ndarray, "query key"]) -> Float[np.ndarray, " lag"]:
    """Mean square of the map along each sub-diagonal: e(ℓ) = mean_i map[i, i−ℓ]², 0 ≤ ℓ < T."""
    tokens = len(attention_map)
    total = np.zeros(tokens)
    for query, row in enumerate(attention_map):  # row by row, in memory order
        total[: query + 1] += np.square(row[query::-1], dtype=np.float64)
    return total / np.arange(tokens, 0, -1)


def row_magnitude(attention_map: Float[np.ndarray, "query key"]) -> Float[np.ndarray, " query"]:
    """Magnitude of each row: Σ_j |map[i, j]|."""
    return np.abs(attention_map).sum(axis=1, dtype=np.float64)


def target_magnitude(
    attention_map: Float[np.ndarray, "query key"], target: Int[np.ndarray, " query"]
) -> Float[np.ndarray, " query"]:
    """Magnitude on each query's target: |map[i, target_i]|, 0 where target_i is −1."""
    hit = np.zeros(len(target))
    (query,) = np.nonzero(target >= 0)
    hit[query] = np.abs(attention_map[query, target[query]])
    return hit


def previous_magnitude(
    attention_map: Float[np.ndarray, "query key"],
) -> Float[np.ndarray, " query"]:
    """Magnitude on the token before each query: |map[i, i − 1]|, 0 for the first."""
    before = np.abs(attention_map.diagonal(-1).astype(np.float64))
    return np.concatenate([np.zeros(1), before])


def reach(attention_map: Float[np.ndarray, "query key"]) -> Float[np.ndarray, " query"]:
    """How many tokens back half of a late query's |map| reaches, on both sides if the layer looks ahead.

        min {ℓ : Σ_{i−ℓ ≤ j ≤ i+ℓ} |map[i, j]| ≥ ½ Σ_j |map[i, j]|}

    Late queries are the last quarter, ⌈T/4⌉ of them. −1 for the others, and for a row of zeros.
    """
    tokens = len(attention_map)
    distances = np.full(tokens, -1.0)
    for query in range(first_late(tokens), tokens):
        row = np.abs(attention_map[query])
        near = np.zeros(max(query + 1, tokens - query))  # by distance
        near[: query + 1] += row[query::-1]
        near[1 : tokens - query] += row[query + 1 :]
        so_far = np.cumsum(near)
        if so_far[-1] > 0:
            distances[query] = np.argmax(so_far >= so_far[-1] / 2)
    return distances


def first_magnitude(attention_map: Float[np.ndarray, "query key"]) -> Float[np.ndarray, " query"]:
    """Magnitude on the first token: |map[i, 0]|."""
    return np.abs(attention_map[:, 0].astype(np.float64))


def separator_magnitude(
    attention_map: Float[np.ndarray, "query key"], separator: Bool[np.ndarray, " key"]
) -> Float[np.ndarray, " query"]:
    """Magnitude on separators between the first token and the query: Σ_j |map[i, j]| over separators 0 < j < i."""
    (keys,) = np.nonzero(separator)
    keys = keys[keys > 0]
    before = keys < np.arange(len(attention_map))[:, None]
    return np.abs(attention_map[:, keys]).sum(axis=1, dtype=np.float64, where=before)


def share_of_rows(
    hit: Float[np.ndarray, " query"], magnitude: Float[np.ndarray, " query"]
) -> float:
    """Mean over queries of hit / magnitude; a row of zeros counts as 0.

    Returns:
        The mean; NaN if all rows are zero, or there are no rows.
    """
    if not magnitude.any():
        return math.nan
    shares = np.divide(hit, magnitude, out=np.zeros_like(magnitude), where=magnitude > 0)
    return float(shares.mean())


def mask_row_sum(attention_mask: Float[np.ndarray, "query key"]) -> Float[np.ndarray, " query"]:
    """How many tokens each query remembers: Σ_j mask[i, j]."""
    return attention_mask.sum(axis=1, dtype=np.float64)
