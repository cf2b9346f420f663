"""Draw cells as an image on a pair of axes with a colour bar. Every map gets its colours here."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from ssmlens.plot.colour_bar import colour_bar
from ssmlens.plot.raster import LEVELS, data_uri, palette_of, palette_png
from ssmlens.plot.scales import Scale, coloured
from ssmlens.plot.theme import SIGNED, UNIT, Stop

SIDE = 700
"""Pixels per side of an image, about a map's size on a screen. Fewer cells become several pixels each."""

_QUICK = 1  # zlib's level: a picture is shown at once and seldom stored

Place = tuple[float, float, float, float]
"""Place of an image on its axes: left and upper edge, width and height."""


def picture(
    cells: Float[np.ndarray, "row column"],
    place: Place,
    *,
    signed: bool,
    scale: Scale = "linear",
    limit: float | None = None,
    axes: tuple[str, str] = ("x", "y"),
    bar_length: float = 0.6,
    level: int = _QUICK,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make an image for `layout.images`, and a trace that draws its colour bar.

    Args:
        cells: The values; NaN for an empty cell.
        place: Left and upper edge on the axes, width and height.
        signed: True for a diverging scale about 0, False for values in [0, limit].
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; by default from these cells.
        axes: The axes of a subplot.
        bar_length: Share of the subplot's height.
        level: zlib's level, 1 (fast) to 9 (small).
    """
    colours = coloured(cells, scale, signed=signed, limit=limit)
    tall, wide = (max(1, SIDE // max(1, n)) for n in cells.shape)
    x, y, width, height = place
    image = {
        **{"source": data_uri(_png(colours.position, signed, (tall, wide), level))},
        **{"xref": axes[0], "yref": axes[1], "sizing": "stretch", "layer": "below"},
        **{"x": x, "y": y, "sizex": width, "sizey": height},
    }
    return image, colour_bar(colours.ticks, signed=signed, axes=axes, length=bar_length)


def stamp(
    cells: Float[np.ndarray, "row column"],
    *,
    signed: bool,
    scale: Scale = "linear",
) -> bytes:
    """Draw only the image, as a small PNG: for thumbnails, and pages that draw the axes themselves.

    Args:
        cells: The values; NaN where there is nothing.
        signed: Whether they have signs.
        scale: "linear", "symlog" or "rank"; its end is of these cells.
    """
    position = coloured(cells, scale, signed=signed).position
    return _png(position, signed, (1, 1), level=9)


def palette(*, signed: bool) -> UInt8[np.ndarray, "level rgba=4"]:
    """Return the image's colours: levels −127 .. 127 for signed values, 0 .. 254 for unsigned ones."""
    return palette_of(_stops(signed))[: LEVELS + 1]


def colour_edges(
    values: Float[np.ndarray, "row column"],
    scale: Scale = "linear",
    *,
    signed: bool,
) -> Float[np.ndarray, " level"]:
    """Return the |value| at which each colour level begins. With `palette` it determines every pixel.

    The level of a value v is the number of edges ≤ |v|, with the sign of v; an unused level has the edge infinity.

    Args:
        values: The cells; NaN where there is nothing.
        scale: "linear", "symlog" or "rank"; its end is of these cells.
        signed: Whether they have signs: then half of the palette is for each sign.
    """
    position = coloured(values, scale, signed=signed).position
    known = np.isfinite(values) & (values != 0)
    order = np.argsort(np.abs(values[known]), kind="stable")
    size = np.abs(values[known])[order]
    levels = LEVELS // 2 if signed else LEVELS
    reached = np.rint(np.abs(position[known])[order] * levels)
    first = np.searchsorted(reached, np.arange(1, levels + 1))
    return np.append(size, np.inf)[first].astype(np.float32)


def _png(
    position: Float[np.ndarray, "row column"], signed: bool, pixels: tuple[int, int], level: int
) -> bytes:
    return palette_png(position, _stops(signed), signed=signed, pixels=pixels, level=level)


def _stops(signed: bool) -> tuple[Stop, ...]:
    return SIGNED if signed else UNIT
