"""The entries of a layer's matrix: all at once if they fit into memory, else by rectangles."""

import numpy as np
from jaxtyping import Float

from ssmlens.names import LARGEST_WHOLE_MAP, MAP, MAP_ARRAYS, MASK
from ssmlens.plot.scales import Scale, robust_limit
from ssmlens.plot.selection import Region, Selection, Span
from ssmlens.plot.tiles import SIDE, Tile, shrink, tile
from ssmlens.scores.diagonal import without_longest
from ssmlens.scores.statistics import energy_by_lag

EXACT = 2048
"""Most tokens per side of a rectangle of a long prompt that is computed entry by entry."""

_SAMPLE = 250_000


def whole(selection: Selection) -> bool:
    """Return whether all of the matrix fits into memory."""
    return selection.length <= LARGEST_WHOLE_MAP


def matrix(selection: Selection) -> Float[np.ndarray, "query key"]:
    """Return all of the matrix; only for a matrix that fits into memory."""
    return selection.keep(selection.matrix_key, lambda: _matrix(selection))


def window(selection: Selection, queries: Span, keys: Span) -> Float[np.ndarray, "query key"]:
    """Return a rectangle of the matrix at full resolution."""
    if whole(selection):
        return matrix(selection)[slice(*queries), slice(*keys)]
    return _rectangle(selection, queries, keys)


def shown_tile(selection: Selection, region: Region | None = None) -> Tile:
    """The matrix, or a rectangle of it, in at most `tiles.SIDE` cells a side."""
    everything = (0, selection.length)
    queries, keys = (everything, everything) if region is None else region
    longest = max(queries[1] - queries[0], keys[1] - keys[0])
    if whole(selection) or longest <= EXACT:
        values = window(selection, queries, keys)
        return tile(values, queries, keys, selection.reduction, SIDE, causal=selection.causal)
    if selection.kind == "channel":
        return _channel_by_strips(selection, queries, keys)
    return _reduced(selection, queries, keys)


def small_tile(selection: Selection, side: int) -> Tile:
    """Reduce all of the matrix to at most `side` cells per side; the full matrix is not cached."""
    everything = (0, selection.length)
    if whole(selection):
        values = _matrix(selection)
        return tile(
            values, everything, everything, selection.reduction, side, causal=selection.causal
        )
    overview = _reduced(selection, everything, everything)
    block = -(-len(overview.cells) // side)
    cells = shrink(
        np.nan_to_num(overview.cells), block, selection.reduction, causal=selection.causal
    )
    return Tile(cells, everything, everything, block * overview.block, selection.causal)


def colour_limit(selection: Selection, scale: Scale | None = None) -> float | None:
    """Return the value at the end of the colour scale: the requested one, else the full matrix's; None: the default.

    A region uses the limit of the full matrix, so that zooming does not change its colours.
    """
    scale = selection.scale if scale is None else scale
    if scale == "rank" or selection.limit is not None:
        return selection.limit
    if not selection.signed:
        return None
    return selection.keep((*selection.matrix_key, "limit", scale), lambda: _limit(selection, scale))


def lag_energy(selection: Selection) -> Float[np.ndarray, " lag"]:
    """Return e(ℓ) = mean_i M[i, i−ℓ]² for 0 ≤ ℓ ≤ 3T/4; of the attention map if M is too large."""
    return selection.keep((*selection.matrix_key, "lags"), lambda: _lags(selection))


def ahead_energy(selection: Selection) -> Float[np.ndarray, " lag"] | None:
    """Return the energy above the diagonal, mean_i M[i, i+ℓ]²; None if the layer does not look ahead."""
    if selection.causal:
        return None
    return selection.keep((*selection.matrix_key, "ahead"), lambda: _ahead(selection))


def _matrix(selection: Selection) -> np.ndarray:
    """Compute or read all of the matrix, by its kind."""
    layer, prompt = selection.layer, selection.prompt
    if selection.kind == "channel":
        return layer.channel_map(selection.channel, prompt)
    if selection.kind == "softmax":
        return layer.read("softmax_attention_map", prompt)
    return layer.whole_map(selection.kind, prompt)


def _rectangle(selection: Selection, queries: Span, keys: Span) -> np.ndarray:
    """Compute a rectangle of the matrix of a long prompt."""
    layer = selection.layer
    if selection.kind == "channel":
        return layer.channel_map(selection.channel, selection.prompt, queries, keys)
    return layer.map_tile((selection.kind,), queries, keys, selection.prompt)[0]


def _limit(selection: Selection, scale: Scale) -> float:
    values = matrix(selection) if whole(selection) else shown_tile(selection).cells
    if scale == "symlog":
        return float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    step = max(1, values.size // _SAMPLE)
    return robust_limit(values[::step])  # full rows: every diagonal crosses them


def _lags(selection: Selection) -> np.ndarray:
    if whole(selection):
        return without_longest(energy_by_lag(matrix(selection)))
    return without_longest(selection.layer.read("lag_energy", selection.prompt))


def _ahead(selection: Selection) -> np.ndarray:
    if whole(selection):
        return without_longest(energy_by_lag(matrix(selection).T))
    return without_longest(selection.layer.read("ahead_energy", selection.prompt))


def _channel_by_strips(selection: Selection, queries: Span, keys: Span) -> Tile:
    """Reduce a channel's M over a long prompt strip by strip, one in memory at a time."""
    block = -(-max(queries[1] - queries[0], keys[1] - keys[0]) // SIDE)
    tall = max(1, EXACT // block) * block
    strips = []
    for first in range(queries[0], queries[1], tall):
        end = min(first + tall, queries[1])
        parts = []
        for key in range(keys[0], keys[1], tall):
            part = _rectangle(selection, (first, end), (key, min(key + tall, keys[1])))
            cells = shrink(part, block, selection.reduction, first - key, causal=selection.causal)
            parts.append(cells)
        strips.append(np.concatenate(parts, axis=1))
    return Tile(np.concatenate(strips), queries, keys, block, selection.causal)


def _reduced(selection: Selection, queries: Span, keys: Span) -> Tile:
    """Read the stored block maxima or means of a long prompt that cover the rectangle."""
    array = MAP_ARRAYS[MAP if selection.kind == "channel" else selection.kind]
    name = f"{array}_mean" if selection.kind == MASK else f"{array}_max"
    block = int(selection.layer.attributes["block_tokens"])
    rows = slice(queries[0] // block, -(-queries[1] // block))
    columns = slice(keys[0] // block, -(-keys[1] // block))
    stored = selection.keep(
        (*selection.key, name), lambda: selection.layer.read(name, selection.prompt)
    )
    query, key = np.ogrid[rows, columns]
    causal = (key <= query) | (not selection.causal)
    cells = np.where(causal, stored[rows, columns], np.nan)
    return Tile(
        cells,
        (rows.start * block, min(rows.stop * block, selection.length)),
        (columns.start * block, min(columns.stop * block, selection.length)),
        block,
        selection.causal,
    )
