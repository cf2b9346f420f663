"""The numbers of a layer's matrix: whole where it can be held, by rectangles where it cannot."""

import numpy as np
from jaxtyping import Float

from ssmlens.names import LARGEST_WHOLE_MAP, MAP, MAP_ARRAYS, MASK
from ssmlens.plot.scales import Scale, robust_limit
from ssmlens.plot.selection import Region, Selection, Span
from ssmlens.plot.tiles import SIDE, Tile, shrink, tile
from ssmlens.scores.diagonal import drop_longest
from ssmlens.scores.diagonal import lag_energy as energy_of

EXACT = 2048
"""Tokens a side up to which a rectangle of a long prompt is computed entry by entry."""

_SAMPLE = 250_000


def whole(what: Selection) -> bool:
    """Whether all of the matrix is held in memory at once."""
    return what.length <= LARGEST_WHOLE_MAP


def matrix(what: Selection) -> Float[np.ndarray, "query key"]:
    """All of the matrix, where the prompt is not too long for that."""
    return what.keep(what.matrix_key, lambda: _matrix(what))


def window(what: Selection, queries: Span, keys: Span) -> Float[np.ndarray, "query key"]:
    """A rectangle of the matrix at full resolution."""
    if whole(what):
        return matrix(what)[slice(*queries), slice(*keys)]
    return _rectangle(what, queries, keys)


def shown_tile(what: Selection, region: Region | None = None, side: int = SIDE) -> Tile:
    """The matrix, or a rectangle of it, in at most `side` cells a side."""
    everything = (0, what.length)
    queries, keys = (everything, everything) if region is None else region
    longest = max(queries[1] - queries[0], keys[1] - keys[0])
    if whole(what) or longest <= EXACT:
        values = window(what, queries, keys)
        return tile(values, queries, keys, what.reduction, side, causal=what.causal)
    if what.kind == "channel":
        return _channel_by_strips(what, queries, keys)
    return _reduced(what, queries, keys)


def small_tile(what: Selection, side: int) -> Tile:
    """All of the matrix in at most `side` cells a side; nothing larger is kept for it."""
    everything = (0, what.length)
    if whole(what):
        values = _matrix(what)
        return tile(values, everything, everything, what.reduction, side, causal=what.causal)
    overview = _reduced(what, everything, everything)
    block = -(-len(overview.cells) // side)
    cells = shrink(np.nan_to_num(overview.cells), block, what.reduction, causal=what.causal)
    return Tile(cells, everything, everything, block * overview.block, what.causal)


def colour_limit(what: Selection, scale: Scale | None = None) -> float | None:
    """The value at the end of the colour scale: the one asked for, or that of the whole matrix; None: the scale's own.

    A region has the colours of the whole matrix, so that zooming leaves them alone.
    """
    scale = what.scale if scale is None else scale
    if scale == "rank" or what.limit is not None:
        return what.limit
    if not what.signed:
        return None
    return what.keep((*what.matrix_key, "limit", scale), lambda: _limit(what, scale))


def lag_energy(what: Selection) -> Float[np.ndarray, " lag"]:
    """e(ℓ) = mean_i M[i, i−ℓ]² for 0 ≤ ℓ ≤ 3T/4; of the attention map where M itself is too large."""
    return what.keep((*what.matrix_key, "lags"), lambda: _lags(what))


def ahead_energy(what: Selection) -> Float[np.ndarray, " lag"] | None:
    """The same above the diagonal, mean_i M[i, i+ℓ]²; None where the layer does not look ahead."""
    if what.causal:
        return None
    return what.keep((*what.matrix_key, "ahead"), lambda: _ahead(what))


def _matrix(what: Selection) -> np.ndarray:
    """The one place that says how a kind of matrix is had, whole."""
    layer, prompt = what.layer, what.prompt
    if what.kind == "channel":
        return layer.channel_map(what.channel, prompt)
    if what.kind == "softmax":
        return layer.read("softmax_attention_map", prompt)
    return layer.whole_map(what.kind, prompt)


def _rectangle(what: Selection, queries: Span, keys: Span) -> np.ndarray:
    """The same of a rectangle, for prompts too long for all of it."""
    layer = what.layer
    if what.kind == "channel":
        return layer.channel_map(what.channel, what.prompt, queries, keys)
    return layer.map_tile((what.kind,), queries, keys, what.prompt)[0]


def _limit(what: Selection, scale: Scale) -> float:
    values = matrix(what) if whole(what) else shown_tile(what).cells
    if scale == "symlog":
        return float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    step = max(1, values.size // _SAMPLE)
    return robust_limit(values[::step])  # whole rows, which every diagonal crosses


def _lags(what: Selection) -> np.ndarray:
    if whole(what):
        return energy_of(matrix(what))
    return drop_longest(what.layer.read("lag_energy", what.prompt))


def _ahead(what: Selection) -> np.ndarray:
    if whole(what):
        return energy_of(matrix(what).T)
    return drop_longest(what.layer.read("ahead_energy", what.prompt))


def _channel_by_strips(what: Selection, queries: Span, keys: Span) -> Tile:
    """A channel's M over a long prompt, reduced strip by strip: never more than one in memory."""
    block = -(-max(queries[1] - queries[0], keys[1] - keys[0]) // SIDE)
    tall = max(1, EXACT // block) * block
    strips = []
    for first in range(queries[0], queries[1], tall):
        end = min(first + tall, queries[1])
        parts = []
        for key in range(keys[0], keys[1], tall):
            part = _rectangle(what, (first, end), (key, min(key + tall, keys[1])))
            cells = shrink(part, block, what.reduction, first - key, causal=what.causal)
            parts.append(cells)
        strips.append(np.concatenate(parts, axis=1))
    return Tile(np.concatenate(strips), queries, keys, block, what.causal)


def _reduced(what: Selection, queries: Span, keys: Span) -> Tile:
    """The stored block maxima or means of a long prompt, as far as they cover the rectangle."""
    array = MAP_ARRAYS[MAP if what.kind == "channel" else what.kind]
    name = f"{array}_mean" if what.kind == MASK else f"{array}_max"
    block = int(what.layer.attributes["block_tokens"])
    rows = slice(queries[0] // block, -(-queries[1] // block))
    columns = slice(keys[0] // block, -(-keys[1] // block))
    stored = what.keep((*what.key, name), lambda: what.layer.read(name, what.prompt))
    query, key = np.ogrid[rows, columns]
    there = (key <= query) | (not what.causal)
    cells = np.where(there, stored[rows, columns], np.nan)
    return Tile(
        cells,
        (rows.start * block, min(rows.stop * block, what.length)),
        (columns.start * block, min(columns.stop * block, what.length)),
        block,
        what.causal,
    )
