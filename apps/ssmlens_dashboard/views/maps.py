"""A layer's map, mask or channel: whole where it can be held, by rectangles where it cannot."""

import dataclasses

import numpy as np
from jaxtyping import Float

from ssmlens.names import LARGEST_WHOLE_MAP
from ssmlens.plots.raster import Reduction
from ssmlens.plots.scales import Scale, robust_limit
from ssmlens.plots.tiles import SIDE, Tile, shrink, tile
from ssmlens.scores.diagonal import lag_energy as energy_of
from ssmlens.store import Layer
from ssmlens_dashboard.address import Address, MapView, Range, Zoom
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.views.cache import Cache

HOVERED = 64
"""Tokens a side of what the pointer asks for at once, unless it is a single row."""

_EXACT = 2048  # tokens a side up to which a rectangle of a long prompt is computed entry by entry
_SAMPLE = 250_000
_AHEAD = (
    4096  # tokens of a prompt up to which matrices are drawn before they are asked for: 64 MiB each
)

_WHOLE: Cache[np.ndarray] = Cache(768 << 20, lambda array: array.nbytes)
_SMALL: Cache[np.ndarray] = Cache(32 << 20, lambda array: array.nbytes)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Which matrix is drawn: of a layer, under a prompt.

    Attributes:
        layer: The layer.
        prompt: Number of the prompt.
        view: "map", "mask", "channel" or "softmax".
        channel: The head; 0 unless `view` is "channel".
        tokens: Real tokens of the prompt.
    """

    layer: Layer
    prompt: int
    view: MapView
    channel: int
    tokens: int

    @property
    def signed(self) -> bool:
        """Whether its values have signs; the others lie in 0..1."""
        return self.view in ("map", "channel")

    @property
    def how(self) -> Reduction:
        """How several entries become one pixel."""
        return "mean" if self.view == "mask" else "peak"

    @property
    def whole(self) -> bool:
        """Whether all of it is held in memory at once."""
        return self.tokens <= LARGEST_WHOLE_MAP

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What it is, for caches."""
        return self.layer.digest, self.prompt, self.view, self.channel


def drawn(scene: Scene) -> Drawn:
    """The matrix that an address names."""
    at = scene.address
    channel = at.channel if at.view == "channel" else 0
    return Drawn(scene.layer, at.prompt, at.view, channel, int(scene.capture.length[at.prompt]))


def window(what: Drawn, queries: Range, keys: Range) -> Float[np.ndarray, "query key"]:
    """A rectangle of the matrix at full resolution."""
    if what.whole:
        return matrix(what)[slice(*queries), slice(*keys)]
    if what.view == "channel":
        return what.layer.channel_map(what.channel, what.prompt, queries, keys)
    both = what.layer.tile(queries, keys, what.prompt)
    return both[1] if what.view == "mask" else both[0]


def matrix(what: Drawn) -> Float[np.ndarray, "query key"]:
    """All of the matrix, where the prompt is not too long for that; kept."""
    return _WHOLE.get(what.key, lambda: _matrix(what))


def shown_tile(what: Drawn, zoom: Zoom | None) -> Tile:
    """The matrix, or a rectangle of it, with as many cells as a screen shows."""
    everything = (0, what.tokens)
    queries, keys = (everything, everything) if zoom is None else (zoom.queries, zoom.keys)
    longest = max(queries[1] - queries[0], keys[1] - keys[0])
    if what.whole or longest <= _EXACT:
        return tile(window(what, queries, keys), queries, keys, what.how)
    if what.view == "channel":
        return _channel_by_strips(what, queries, keys)
    return _reduced(what, queries, keys)


def small_tile(what: Drawn, side: int) -> Tile:
    """All of the matrix in at most `side` cells a side; nothing larger is kept for it."""
    everything = (0, what.tokens)
    if what.whole:
        return tile(_matrix(what), everything, everything, what.how, side)
    overview = _reduced(what, everything, everything)
    block = -(-len(overview.cells) // side)
    cells = shrink(np.nan_to_num(overview.cells), block, what.how)
    return Tile(cells, everything, everything, block * overview.block)


def colour_limit(what: Drawn, scale: Scale) -> float | None:
    """The value at the end of the colour scale: of the whole matrix, so that zooming leaves the colours alone."""
    if what.view == "mask" or scale == "rank":
        return None
    key = (*what.key, "limit", scale)
    return float(_SMALL.get(key, lambda: np.array(_limit(what, scale))))


def lag_energy(what: Drawn) -> Float[np.ndarray, " lag"]:
    """e(ℓ) = mean_i M[i, i−ℓ]² for 0 ≤ ℓ ≤ 3T/4; of the attention map where M itself is too large."""
    return _SMALL.get((*what.key, "lags"), lambda: _lags(what))


def near(scene: Scene) -> list[Address]:
    """What is shown and what is an arrow away: the channels beside a channel, else the layers beside a layer.

    Nothing for a prompt whose matrices would crowd the cache.
    """
    at, layers = scene.address, scene.capture.layers
    if scene.capture.length[at.prompt] > _AHEAD:
        return []
    if at.view == "channel":
        places = (at.channel + 1, at.channel - 1)
        return [at, *(at.but(channel=n) for n in places if 0 <= n < scene.channels)]
    here = layers.index(scene.layer.index)
    return [at, *(at.but(layer=layers[n]) for n in (here + 1, here - 1) if 0 <= n < len(layers))]


def _matrix(what: Drawn) -> np.ndarray:
    layer, prompt = what.layer, what.prompt
    if what.view == "map":
        return layer.attention_map(prompt)
    if what.view == "mask":
        return layer.attention_mask(prompt)
    if what.view == "softmax":
        return layer.read("softmax_attention_map", prompt)
    return layer.channel_map(what.channel, prompt)


def _limit(what: Drawn, scale: Scale) -> float:
    values = matrix(what) if what.whole else shown_tile(what, None).cells
    if scale == "symlog":
        return float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    step = max(1, values.size // _SAMPLE)
    return robust_limit(values[::step])  # whole rows, which every diagonal crosses


def _lags(what: Drawn) -> np.ndarray:
    if what.whole:
        return energy_of(matrix(what))
    return what.layer.read("lag_energy", what.prompt)[: 3 * what.tokens // 4 + 1]


def _channel_by_strips(what: Drawn, queries: Range, keys: Range) -> Tile:
    """A channel's M over a long prompt, reduced strip by strip: never more than one in memory."""
    block = -(-max(queries[1] - queries[0], keys[1] - keys[0]) // SIDE)
    tall = max(1, _EXACT // block) * block
    strips = []
    for first in range(queries[0], queries[1], tall):
        end = min(first + tall, queries[1])
        parts = []
        for key in range(keys[0], keys[1], tall):
            rectangle = (first, end), (key, min(key + tall, keys[1]))
            part = what.layer.channel_map(what.channel, what.prompt, *rectangle)
            parts.append(shrink(part, block, what.how, first - key))
        strips.append(np.concatenate(parts, axis=1))
    return Tile(np.concatenate(strips), queries, keys, block)


def _reduced(what: Drawn, queries: Range, keys: Range) -> Tile:
    """The stored block maxima or means of a long prompt, as far as they cover the rectangle."""
    name = "attention_mask_mean" if what.view == "mask" else "attention_map_max"
    block = int(what.layer.attributes["block_tokens"])
    rows = slice(queries[0] // block, -(-queries[1] // block))
    columns = slice(keys[0] // block, -(-keys[1] // block))
    cells = _WHOLE.get((*what.key, name), lambda: what.layer.read(name, what.prompt))[rows, columns]
    query, key = np.ogrid[rows, columns]
    cells = np.where(key <= query, cells, np.nan)
    return Tile(
        cells,
        (rows.start * block, min(rows.stop * block, what.tokens)),
        (columns.start * block, min(columns.stop * block, what.tokens)),
        block,
    )
