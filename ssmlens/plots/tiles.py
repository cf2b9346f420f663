"""A rectangle of a map, brought down to the cells that a screen shows, and its figure: for maps of any size."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plots.labels import literal, visible
from ssmlens.plots.raster import Reduction, data_uri, palette_png
from ssmlens.plots.scales import Scale, coloured
from ssmlens.plots.theme import LIGHT, MONO, SIGNED, UNIT, Theme, colorscale, template

SIDE = 700
"""Most cells a side: about the pixels that a map gets on a screen."""

LABELS = 36
"""Most token labels along an axis."""

Range = tuple[int, int]


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
    padded = _padded(values, block)
    if how == "peak":
        high, low = _fold(padded, block, np.maximum), _fold(padded, block, np.minimum)
        cells = np.where(-low > high, low, high)
    else:
        entries = _causal_entries(values.shape[0], values.shape[1], block, first)
        cells = _fold(padded, block, np.add) / np.maximum(entries, 1)
    rows, columns = np.ogrid[: cells.shape[0], : cells.shape[1]]
    last_query = np.minimum((rows + 1) * block, len(values)) - 1
    cells = cells.astype(values.dtype, copy=False)
    cells[columns * block > last_query + first] = np.nan
    return cells


def tile_figure(
    shown: Tile,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    signed: bool = True,
    scale: Scale = "linear",
    limit: float | None = None,
    query: int | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw a tile as an image on axes of tokens: queries run down, keys to the right.

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
    position = colours.position.repeat(pixels, axis=0).repeat(pixels, axis=1)
    figure = go.Figure(_colour_bar(colours.ticks, signed=signed))
    figure.add_layout_image(
        source=data_uri(palette_png(position, stops, signed=signed)),
        **{"xref": "x", "yref": "y", "sizing": "stretch", "layer": "below"},
        **{"x": first_key - 0.5, "y": first - 0.5},
        **{"sizex": columns * shown.block, "sizey": rows * shown.block},
    )
    if query is not None and first <= query < end:
        figure.add_hline(y=query, line={"color": theme.muted, "width": 1, "dash": "dot"})
    figure.update_layout(
        template=template(theme),
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        dragmode="zoom",
        xaxis={
            **_axis(key_tokens, shown.keys),
            "title": {"text": "key token (looked at)"},
            "side": "top",
            "tickangle": -90,
            "range": [first_key - 0.5, end_key - 0.5],
        },
        yaxis={
            **_axis(query_tokens, shown.queries),
            "title": {"text": "query token (looking)"},
            "range": [end - 0.5, first - 0.5],
        },
    )
    return figure


def _padded(values: np.ndarray, block: int) -> np.ndarray:
    rows, columns = (-(-n // block) * block for n in values.shape)
    if (rows, columns) == values.shape:
        return values
    padded = np.zeros((rows, columns), values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded


def _fold(values: np.ndarray, block: int, join: np.ufunc) -> np.ndarray:
    """Squares of `block` joined into one value each; slices, which numpy joins many at a time."""
    rows = values[::block]
    for step in range(1, block):
        rows = join(rows, values[step::block])
    cells = rows[:, ::block]
    for step in range(1, block):
        cells = join(cells, rows[:, step::block])
    return cells


def _causal_entries(rows: int, columns: int, block: int, first: int) -> np.ndarray:
    """How many entries of each square have key ≤ query."""
    starts = np.arange(0, columns, block, dtype=np.int32)
    widths = np.minimum(starts + block, columns) - starts
    up_to = np.arange(rows, dtype=np.int32)[:, None] + first + 1 - starts
    return np.add.reduceat(np.clip(up_to, 0, widths), np.arange(0, rows, block), axis=0)


def _axis(tokens: Sequence[str], shown: Range) -> dict:
    first, end = shown
    step = max(1, math.ceil((end - first) / LABELS))
    at = list(range(first + (-first) % step, end, step))
    return {
        "tickvals": at,
        "ticktext": [literal(f"{i} {visible(tokens[i], longest=12)}") for i in at],
        "tickfont": {"family": MONO, "size": 10},
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 4},
    }


def _colour_bar(ticks: tuple[tuple[float, ...], tuple[str, ...]], *, signed: bool) -> go.Scatter:
    """A trace of nothing, for its colour bar."""
    marker = {
        "color": [0],
        "cmin": -1 if signed else 0,
        "cmax": 1,
        "colorscale": colorscale(SIGNED if signed else UNIT),
        "showscale": True,
        "colorbar": {
            "tickvals": ticks[0],
            "ticktext": ticks[1],
            "thickness": 10,
            "len": 0.6,
            "outlinewidth": 0,
            "xpad": 8,
        },
    }
    return go.Scatter(
        x=[None], y=[None], mode="markers", marker=marker, showlegend=False, hoverinfo="skip"
    )
