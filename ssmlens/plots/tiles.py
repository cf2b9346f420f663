"""A rectangle of a map, brought down to the cells that a screen shows, and its figure: for maps of any size."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ssmlens.plots.colour_bar import colour_bar
from ssmlens.plots.labels import label_pixels, literal, visible
from ssmlens.plots.raster import Reduction, data_uri, palette_png
from ssmlens.plots.scales import Scale, coloured
from ssmlens.plots.theme import (
    LABEL,
    LIGHT,
    SIGNED,
    UNIT,
    Spec,
    Theme,
    plain_template,
)

SIDE = 700
"""Most cells a side: about the pixels that a map gets on a screen."""

LABELS = 36
"""Most token labels along an axis."""

Range = tuple[int, int]
_STRIP = 128  # rows of entries reduced at a time: what they need stays in a core's own cache
_TITLE, _BAR = 24, 72  # pixels of an axis's title, and of the colour bar with its numbers
_QUICK = 1  # zlib's level: a picture is looked at at once, and seldom kept


@dataclasses.dataclass(frozen=True)
class Tile:
    """A rectangle of a map, a value for each square of `block` tokens.

    Attributes:
        cells: The value of largest magnitude in each square with its sign, or the mean; NaN where no
            key of the square is at or before a query of it.
        queries: First query and the one after the last.
        keys: First key and the one after the last.
        block: Tokens a side of a square; 1 where every entry is shown.
    """

    cells: Float[np.ndarray, "row column"]
    queries: Range
    keys: Range
    block: int


def tile(
    values: Float[np.ndarray, "query key"],
    queries: Range,
    keys: Range,
    how: Reduction,
    side: int = SIDE,
) -> Tile:
    """A rectangle of a map as a tile of at most `side` cells a side.

    Args:
        values: The map's entries in that rectangle.
        queries: First query and the one after the last.
        keys: First key and the one after the last.
        how: "peak" for maps, which a one-token diagonal survives, or "mean" for masks.
        side: Most cells a side.
    """
    block = math.ceil(max(values.shape) / side)
    cells = shrink(values, block, how, queries[0] - keys[0])
    return Tile(cells, queries, keys, block)


def shrink(
    values: Float[np.ndarray, "query key"], block: int, how: Reduction, first: int = 0
) -> Float[np.ndarray, "row column"]:
    """One value for each `block` × `block` square of a causal map; NaN where no key is at or before a query.

    As `raster.block_reduce(raster.causal(values))`, some ten times faster. Entries with key > query
    must be zero, as they are in maps and masks.

    Args:
        values: A rectangle of a map.
        block: Tokens a side of a square.
        how: "peak" or "mean" over the causal entries of a square.
        first: Position of the first query minus position of the first key.
    """
    cells = np.zeros((-(-values.shape[0] // block), -(-values.shape[1] // block)), values.dtype)
    strip = max(1, _STRIP // block)
    for row in range(0, len(cells), strip):
        part = values[row * block : (row + strip) * block]
        causal = min(
            values.shape[1], row * block + len(part) + first
        )  # keys beyond have no query here
        if causal > 0:
            part = part[:, :causal]
            cells[row : row + strip, : -(-causal // block)] = _join(part, block, how, row, first)
    rows, columns = np.ogrid[: cells.shape[0], : cells.shape[1]]
    last_query = np.minimum((rows + 1) * block, len(values)) - 1
    cells[columns * block > last_query + first] = np.nan
    return cells


def tile_spec(
    shown: Tile,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    signed: bool = True,
    scale: Scale = "linear",
    limit: float | None = None,
    query: int | None = None,
    theme: Theme = LIGHT,
) -> Spec:
    """Draw a tile, as plain values of a plotly figure: an image on axes of tokens, queries down, keys to the right.

    The figure carries pixels, not numbers, so it is small at any size.

    Args:
        shown: The tile.
        query_tokens: The prompt's tokens.
        key_tokens: The tokens along the other axis; the prompt's when absent.
        signed: True for maps (a diverging scale about 0), False for masks (0 to 1).
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; of the tile itself by default. A rank scale
            ranks among the tile's cells.
        query: A query to mark, by its position in the prompt.
        theme: LIGHT or DARK.
    """
    key_tokens = query_tokens if key_tokens is None else key_tokens
    colours = coloured(shown.cells, scale, signed=signed, limit=limit)
    stops = SIGNED if signed else UNIT
    (first, end), (first_key, end_key) = shown.queries, shown.keys
    rows, columns = shown.cells.shape
    # Cells of several pixels, so that no viewer of the figure blurs one into the next.
    pixels = max(1, SIDE // max(rows, columns))
    picture = palette_png(colours.position, stops, signed=signed, pixels=pixels, level=_QUICK)
    image = {
        **{"source": data_uri(picture), "xref": "x", "yref": "y"},
        **{"sizing": "stretch", "layer": "below"},
        **{"x": first_key - 0.5, "y": first - 0.5},
        **{"sizex": columns * shown.block, "sizey": rows * shown.block},
    }
    across = _axis(key_tokens, shown.keys, "key token (looked at)")
    down = _axis(query_tokens, shown.queries, "query token (looking)")
    layout = {
        "template": plain_template(theme),
        "margin": {
            **{"l": _TITLE + label_pixels(down["ticktext"]), "r": _BAR},
            **{"t": _TITLE + label_pixels(across["ticktext"]), "b": 8, "autoexpand": False},
        },
        "dragmode": "zoom",
        "images": [image],
        "xaxis": {
            **across,
            "side": "top",
            "tickangle": -90,
            "range": [first_key - 0.5, end_key - 0.5],
        },
        "yaxis": {
            **down,
            "range": [end - 0.5, first - 0.5],
        },
    }
    spec = {"data": [colour_bar(colours.ticks, signed=signed)], "layout": layout}
    return marked(spec, query, theme)


def marked(spec: Spec, query: int | None, theme: Theme = LIGHT) -> Spec:
    """A figure of `tile_spec`, made without a query, with one marked where it is in the tile."""
    end, first = spec["layout"]["yaxis"]["range"]
    if query is None or not first < query < end:
        return spec
    line = {"color": theme.muted, "width": 1, "dash": "dot"}
    where = {"xref": "x domain", "x0": 0, "x1": 1, "y0": query, "y1": query}
    mark = {"type": "line", **where, "line": line}
    return {**spec, "layout": {**spec["layout"], "shapes": [mark]}}


def _join(
    values: np.ndarray, block: int, how: Reduction, row: int, first: int
) -> Float[np.ndarray, "row column"]:
    """Squares of a strip of rows, the first of them row `row` of the squares."""
    if how == "peak":
        high, low = _fold(values, block, np.maximum), _fold(values, block, np.minimum)
        return np.where(-low > high, low, high)
    entries = _causal_entries(values.shape[0], values.shape[1], block, row * block + first)
    return _fold(values, block, np.add) / np.maximum(entries, 1)


def _fold(values: np.ndarray, block: int, join: np.ufunc) -> np.ndarray:
    """Squares of `block` joined into one value each; slices, which numpy joins many at a time."""
    rows = values[::block].copy()
    for step in range(1, block):
        part = values[step::block]
        join(rows[: len(part)], part, out=rows[: len(part)])
    cells = rows[:, ::block].copy()
    for step in range(1, block):
        part = rows[:, step::block]
        join(cells[:, : part.shape[1]], part, out=cells[:, : part.shape[1]])
    return cells


def _causal_entries(rows: int, columns: int, block: int, first: int) -> np.ndarray:
    """How many entries of each square have key ≤ query."""
    starts = np.arange(0, columns, block, dtype=np.int32)
    widths = np.minimum(starts + block, columns) - starts
    up_to = np.arange(rows, dtype=np.int32)[:, None] + first + 1 - starts
    return np.add.reduceat(np.clip(up_to, 0, widths), np.arange(0, rows, block), axis=0)


def _axis(tokens: Sequence[str], shown: Range, title: str) -> dict[str, Any]:
    first, end = shown
    step = max(1, math.ceil((end - first) / LABELS))
    at = list(range(first + (-first) % step, end, step))
    return {
        "tickvals": at,
        "ticktext": [literal(f"{i} {visible(tokens[i], longest=12)}") for i in at],
        "tickfont": LABEL,
        "showgrid": False,
        "zeroline": False,
        "automargin": False,  # measuring labels takes the browser longer than all the rest
        "title": {"text": title, "standoff": 4},
    }
