"""Reduce a rectangle of a map to the cells of a screen and draw it, for maps of any size."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ssmlens.plot.labels import block_labels, label_pixels, literal, visible
from ssmlens.plot.picture import SIDE, Place, picture
from ssmlens.plot.raster import Reduction, block_reduce
from ssmlens.plot.scales import Scale
from ssmlens.plot.theme import LABEL, LIGHT, Spec, Theme, plain_template

LABELS = 36
"""Most token labels along an axis of positions."""

NUMBERS = 300 * 300
"""Most cells whose single values a stand-alone figure contains."""

HOVER_SIDE = 256
"""Cells per side of the values in a larger figure."""

LOOKS_AHEAD = "looks ahead"
"""Name of the image of a matrix that has entries above the diagonal, for the dashboard's pointer (cells.js)."""

Hover = Literal["positions", "tokens"] | None
Range = tuple[int, int]
_STRIP = 128  # rows of entries to reduce at a time: their data fits into a core's cache
_TITLE, _BAR = 24, 72  # pixels of an axis's title, and of the colour bar with its numbers
_DOWN, _ACROSS = "query token (looking)", "key token (looked at)"


@dataclasses.dataclass(frozen=True)
class Tile:
    """A rectangle of a map, with one value per square of `block` × `block` tokens.

    Attributes:
        cells: The value of largest magnitude in each square with its sign, or the mean; in a causal
            map NaN if every key of the square is after its queries.
        queries: First query and one past the last.
        keys: First key and one past the last.
        block: Tokens per side of a square; 1 shows every entry.
        causal: Whether no query sees a later key.
    """

    cells: Float[np.ndarray, "row column"]
    queries: Range
    keys: Range
    block: int
    causal: bool = True


def tile(
    values: Float[np.ndarray, "query key"],
    queries: Range,
    keys: Range,
    how: Reduction,
    side: int = SIDE,
    *,
    causal: bool = True,
) -> Tile:
    """Reduce a rectangle of a map to a tile of at most `side` cells per side.

    Args:
        values: The map's entries in the rectangle.
        queries: First query and one past the last.
        keys: First key and one past the last.
        how: "peak" for maps, which keeps a one-token diagonal, or "mean" for masks.
        side: Most cells per side.
        causal: Whether no query sees a later key.
    """
    block = math.ceil(max(values.shape) / side)
    cells = shrink(values, block, how, queries[0] - keys[0], causal=causal)
    return Tile(cells, queries, keys, block, causal)


def shrink(
    values: Float[np.ndarray, "query key"],
    block: int,
    how: Reduction,
    first: int = 0,
    *,
    causal: bool = True,
) -> Float[np.ndarray, "row column"]:
    """Reduce each `block` × `block` square of a map to one value; if causal, NaN where every key is after the queries.

    Equal to `raster.block_reduce(raster.causal(values))`, about ten times faster. Entries of a causal map with
    key > query must be zero, as they are in maps and masks.

    Args:
        values: A rectangle of a map.
        block: Tokens per side of a square.
        how: "peak" or "mean" over the causal entries of a square.
        first: Position of the first query minus position of the first key.
        causal: Whether no query sees a later key.
    """
    if not causal:
        first = values.shape[1]  # as if every key came before the first query
    cells = np.zeros((-(-values.shape[0] // block), -(-values.shape[1] // block)), values.dtype)
    strip = max(1, _STRIP // block)
    for row in range(0, len(cells), strip):
        part = values[row * block : (row + strip) * block]
        # later keys have no query in this strip
        seen = min(values.shape[1], row * block + len(part) + first)
        if seen > 0:
            part = part[:, :seen]
            cells[row : row + strip, : -(-seen // block)] = _join(part, block, how, row, first)
    rows, columns = np.ogrid[: cells.shape[0], : cells.shape[1]]
    last_query = np.minimum((rows + 1) * block, len(values)) - 1
    cells[columns * block > last_query + first] = np.nan
    return cells


def tile_spec(
    drawn: Tile,
    tokens: Sequence[str],
    *,
    signed: bool = True,
    scale: Scale = "linear",
    limit: float | None = None,
    query: int | None = None,
    hover: Hover = None,
    theme: Theme = LIGHT,
) -> Spec:
    """Draw a tile as plain values of a plotly figure: an image on axes of tokens, queries down, keys to the right.

    A page that fetches numbers and a new tile at every zoom needs only pixels. A stand-alone figure also contains the
    cells' values for the pointer.

    Args:
        drawn: The tile.
        tokens: The prompt's tokens.
        signed: True for maps (a diverging scale about 0), False for masks (0 to 1).
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; by default from the tile. A rank scale ranks
            the tile's cells.
        query: A query to mark, by its position in the prompt.
        hover: Values under the pointer: None; at "positions", on the same axes as without; or at "tokens", on axes of
            categories, whose labels plotly selects again at every zoom.
        theme: LIGHT or DARK.
    """
    axes = _on_labels if hover == "tokens" else _on_positions
    place, down, across, labels = axes(drawn, tokens)
    numbers = [] if hover is None else [_numbers(drawn, labels)]
    image, bar = picture(drawn.cells, place, signed=signed, scale=scale, limit=limit)
    if not drawn.causal:
        image = {**image, "name": LOOKS_AHEAD}
    layout = {
        "template": plain_template(theme),
        "margin": _margin(down, across),
        "dragmode": "zoom",
        "images": [image],
        "xaxis": {**across, "side": "top", "tickangle": -90},
        "yaxis": {**down, "range": down["range"][::-1]},
    }
    spec = {"data": [*numbers, bar], "layout": layout}
    at = query if query is None or hover != "tokens" else (query - drawn.queries[0]) / drawn.block
    return marked(spec, at, theme)


def _on_positions(
    drawn: Tile, tokens: Sequence[str]
) -> tuple[Place, dict[str, Any], dict[str, Any], None]:
    """Return the place of the image on axes of positions, the axes down and across, and no labels."""
    rows, columns = drawn.cells.shape
    place = (
        drawn.keys[0] - 0.5,
        drawn.queries[0] - 0.5,
        float(columns * drawn.block),
        float(rows * drawn.block),
    )
    down = _positions(tokens, drawn.queries, _DOWN)
    return place, down, _positions(tokens, drawn.keys, _ACROSS), None


def _on_labels(
    drawn: Tile, tokens: Sequence[str]
) -> tuple[Place, dict[str, Any], dict[str, Any], dict[str, list[str]]]:
    """The same on axes of labels, one for each square, and the labels."""
    rows, columns = drawn.cells.shape
    down = block_labels(tokens, drawn.block, *drawn.queries)
    across = block_labels(tokens, drawn.block, *drawn.keys)
    place = (-0.5, -0.5, float(columns), float(rows))
    labels = {"y": down, "x": across}
    return place, _categories(down, _DOWN), _categories(across, _ACROSS), labels


def marked(spec: Spec, query: int | float | None, theme: Theme = LIGHT) -> Spec:
    """Mark a query in a figure of `tile_spec` drawn without one, if the tile contains it."""
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
    """Reduce the squares of a strip of rows that begins at row `row` of the squares."""
    if how == "peak":
        high, low = _fold(values, block, np.maximum), _fold(values, block, np.minimum)
        return np.where(-low > high, low, high)
    entries = _causal_entries(values.shape[0], values.shape[1], block, row * block + first)
    return _fold(values, block, np.add) / np.maximum(entries, 1)


def _fold(values: np.ndarray, block: int, join: np.ufunc) -> np.ndarray:
    """Join each square of `block` into one value, by slices, which numpy joins many at a time."""
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
    """Count the entries with key ≤ query in each square."""
    starts = np.arange(0, columns, block, dtype=np.int32)
    widths = np.minimum(starts + block, columns) - starts
    up_to = np.arange(rows, dtype=np.int32)[:, None] + first + 1 - starts
    return np.add.reduceat(np.clip(up_to, 0, widths), np.arange(0, rows, block), axis=0)


def _positions(tokens: Sequence[str], drawn: Range, title: str) -> dict[str, Any]:
    """Make an axis of positions in the prompt, with at most `LABELS` labels."""
    first, end = drawn
    step = max(1, math.ceil((end - first) / LABELS))
    at = list(range(first + (-first) % step, end, step))
    return {
        "tickvals": at,
        "ticktext": [literal(f"{i} {visible(tokens[i], longest=12)}") for i in at],
        "range": [first - 0.5, end - 0.5],
        "tickfont": LABEL,
        "showgrid": False,
        "zeroline": False,
        "automargin": False,  # measuring labels takes the browser longer than everything else
        "title": {"text": title, "standoff": 4},
    }


def _categories(labels: Sequence[str], title: str) -> dict[str, Any]:
    """Make an axis of labels; plotly draws those that fit."""
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(labels),
        "range": [-0.5, len(labels) - 0.5],
        "tickfont": LABEL,
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
        "title": {"text": title},
    }


def _margin(down: dict[str, Any], across: dict[str, Any]) -> dict[str, Any]:
    if "ticktext" not in down:
        return {"l": 48, "r": 16, "t": 48, "b": 16}
    left, top = (_TITLE + label_pixels(axis["ticktext"]) for axis in (down, across))
    return {"l": left, "r": _BAR, "t": top, "b": 8, "autoexpand": False}


def _numbers(drawn: Tile, labels: dict[str, list[str]] | None) -> dict[str, Any]:
    """Make an invisible heatmap of the cells for the pointer; in a large tile a value is the peak of several cells.

    Args:
        drawn: The tile.
        labels: Labels of its columns (x) and rows (y), for axes of categories.
    """
    several = 1 if drawn.cells.size <= NUMBERS else -(-max(drawn.cells.shape) // HOVER_SIDE)
    values = block_reduce(drawn.cells, several, "peak")
    span = several * drawn.block
    where: dict[str, Any] = dict(labels or {})
    if labels is None:
        first, first_key, middle = drawn.queries[0], drawn.keys[0], (span - 1) / 2
        where = {"x0": first_key + middle, "dx": span, "y0": first + middle, "dy": span}
    elif several > 1:
        middle = (several - 1) / 2
        where = {"x0": middle, "dx": several, "y0": middle, "dy": several}
    name = (
        "value" if span == 1 else f"of {span}×{span}" if several == 1 else f"peak of {span}×{span}"
    )
    return {
        **{"type": "heatmap", "z": values.astype(np.float32), **where},
        **{"opacity": 0, "showscale": False, "hoverongaps": False},
        "hovertemplate": f"query  %{{y}}<br>key    %{{x}}<br>{name}  %{{z:.3g}}<extra></extra>",
    }
