"""Check reduced maps and their statistics against exact blocks and rows of the maps."""

import numpy as np
from jaxtyping import Bool, Float, Integer

from ssmlens.names import MAP, MAP_ARRAYS, MASK
from ssmlens.scan.reach import first_late
from ssmlens.scan.tiles import map_tile
from ssmlens.store.layer import Layer
from ssmlens.store.schema import BLOCK_TOKENS

TOLERANCE = 1e-4
"""Largest difference of a reduced value, relative to the largest entry of its block or row."""


class _Exact:
    """Exact rectangles of one prompt's maps, computed from its operands."""

    def __init__(self, layer: Layer, prompt: int):
        self.operands = layer.operands(prompt)
        self.kinds, self.causal = self.operands.maps, self.operands.is_causal

    def tile(self, queries: range, keys: range) -> dict[str, np.ndarray]:
        """A rectangle of every map in float64."""
        spans = (queries.start, queries.stop), (keys.start, keys.stop)
        means = map_tile(self.operands, self.kinds, *spans)[0].double().numpy()
        return dict(zip(self.kinds, means, strict=True))

    def diagonal(self) -> Float[np.ndarray, " token"]:
        """The mean over heads of M[i, i]."""
        diagonals = self.operands.map(lambda tensor: tensor.double()).diagonal()
        return diagonals[0].mean(1).numpy()


def reduced_problems(
    layer: Layer,
    prompt: int,
    target: Integer[np.ndarray, " token"] | None,
    separator: Bool[np.ndarray, " token"],
) -> list[str]:
    """List the reduced values that do not follow from the operands, by a sample of blocks and rows.

    The blocks are the first, a middle one and the last on the diagonal, the last row's first, and the one with the
    map's largest entry. The rows are the first, a middle one and the last three, which have the longest lags (the first
    three too if the layer looks ahead). The energy of lag 0 is checked over the whole diagonal.

    Args:
        layer: A layer with reduced maps.
        prompt: Number of a prompt.
        target: The key that each of its tokens must attend to, -1 for none.
        separator: Which of its tokens are separators.
    """
    exact, tokens = _Exact(layer, prompt), layer.length(prompt)
    wrong = []
    for row, column in _sampled_blocks(layer.read("attention_map_max", prompt)):
        wrong += _block_problems(layer, prompt, exact, (row, column))
    queries = {0, tokens // 2, *range(max(0, tokens - 3), tokens)}
    queries |= set() if exact.causal else {*range(min(3, tokens))}
    rows = {
        query: exact.tile(range(query, query + 1), range(query + 1 if exact.causal else tokens))
        for query in sorted(queries)
    }
    wrong += _row_problems(layer, prompt, rows, target, separator)
    wrong += _reach_problems(layer, prompt, rows)
    wrong += _lag_problems(layer, prompt, exact.diagonal(), rows)
    if not exact.causal:
        wrong += _lag_problems(layer, prompt, exact.diagonal(), rows, "ahead_energy")
    return [f"prompt {prompt}: {name} does not follow from the operands" for name in wrong]


def _sampled_blocks(largest: Float[np.ndarray, "query_block key_block"]) -> list[tuple[int, int]]:
    last = len(largest) - 1
    row, column = divmod(int(np.abs(largest).argmax()), last + 1)
    return sorted({(0, 0), (last // 2, last // 2), (last, last), (last, 0), (row, column)})


def _block_problems(layer: Layer, prompt: int, exact: _Exact, at: tuple[int, int]) -> list[str]:
    """Compare the reduced values of one block with its exact entries: those with j ≤ i if M is causal."""
    block, tokens = int(layer.attributes[BLOCK_TOKENS]), layer.length(prompt)
    queries, keys = (range(b * block, min((b + 1) * block, tokens)) for b in at)
    seen = np.less_equal.outer(keys, queries).T | (not exact.causal)
    wrong = []
    for kind, tile in exact.tile(queries, keys).items():
        name = MAP_ARRAYS[kind]
        if f"{name}_max" not in layer:
            continue
        entries = tile[seen] if seen.any() else np.zeros(1)
        mean, largest = (float(layer.read(f"{name}_{how}", prompt)[at]) for how in ("mean", "max"))
        peak = np.abs(entries).max()
        if not abs(mean - entries.mean()) <= TOLERANCE * peak:
            wrong.append(f"{name}_mean[{at[0]}, {at[1]}]")
        # If two entries have the largest magnitude and opposite signs, either may be stored.
        apart = max(np.abs(entries - largest).min(), abs(abs(largest) - peak))
        if not apart <= TOLERANCE * peak:
            wrong.append(f"{name}_max[{at[0]}, {at[1]}]")
    return wrong


def _row_problems(
    layer: Layer,
    prompt: int,
    rows: dict[int, dict[str, np.ndarray]],
    target: Integer[np.ndarray, " token"] | None,
    separator: Bool[np.ndarray, " token"],
) -> list[str]:
    """Compare the statistics of single rows with those rows."""
    wrong = []
    for query, maps in rows.items():
        key = -1 if target is None else int(target[query])
        magnitude = np.abs(maps[MAP][0])
        mask = maps.get(MASK, np.zeros(1))
        between = separator[1:query].nonzero()[0] + 1
        of_map = {
            "row_magnitude": magnitude.sum(),
            "target_magnitude": magnitude[key] if 0 <= key < len(magnitude) else 0.0,
            "previous_magnitude": magnitude[query - 1] if query else 0.0,
            "first_magnitude": magnitude[0],
            "separator_magnitude": magnitude[between].sum(),
        }
        scales = dict.fromkeys(of_map, magnitude.sum()) | {"mask_row_sum": mask.sum()}
        for name, value in {**of_map, "mask_row_sum": mask.sum()}.items():
            if name not in layer:
                continue
            apart = abs(layer.read(name, prompt)[query] - value)
            if not apart <= TOLERANCE * scales[name]:
                wrong.append(f"{name}[{query}]")
    return wrong


def _reach_problems(layer: Layer, prompt: int, rows: dict[int, dict[str, np.ndarray]]) -> list[str]:
    """Check the reach of single rows: half of a late row's magnitude lies within it, and not within one token less."""
    if "reach" not in layer:
        return []
    stored, wrong = layer.read("reach", prompt), []
    for query, maps in rows.items():
        so_far = np.abs(maps[MAP][0, ::-1]).cumsum()
        half, reach = so_far[-1] / 2, stored[query]
        if query < first_late(len(stored)) or half == 0:
            good = reach == -1
        else:
            slack, is_lag = 2 * TOLERANCE * half, reach in range(query + 1)
            good = is_lag and so_far[int(reach)] >= half - slack
            good = good and (reach == 0 or so_far[int(reach) - 1] <= half + slack)
        if not good:
            wrong.append(f"reach[{query}]")
    return wrong


def _lag_problems(
    layer: Layer,
    prompt: int,
    diagonal: Float[np.ndarray, " token"],
    rows: dict[int, dict[str, np.ndarray]],
    name: str = "lag_energy",
) -> list[str]:
    """Check the energy of lag 0 and of the three longest lags, which lie in the last rows (ahead: in the first)."""
    energy, tokens = layer.read(name, prompt), len(diagonal)
    expected = {0: np.square(diagonal).mean()}
    for lag in range(max(1, tokens - 3), tokens):
        pairs = [(late, late - lag) for late in range(lag, tokens)]
        pairs = pairs if name == "lag_energy" else [(early, late) for late, early in pairs]
        entries = [rows[query][MAP][0, key] for query, key in pairs]
        expected[lag] = np.square(entries).mean()
    # The tolerance of an entry is relative to its largest neighbours; squaring doubles it.
    return [
        f"{name}[{lag}]"
        for lag, value in expected.items()
        if not abs(energy[lag] - value) <= 2 * TOLERANCE * value + TOLERANCE**2 * energy.max()
    ]
