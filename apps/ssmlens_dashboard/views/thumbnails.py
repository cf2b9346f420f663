"""Small pictures of maps and masks, drawn on request and cached."""

from ssmlens.plot.matrix import small_tile
from ssmlens.plot.picture import stamp
from ssmlens.plot.selection import Selection

SIDE = 128
"""Most pixels per side."""


def thumbnail(selection: Selection) -> bytes:
    """Draw a PNG of a map or mask: a cell shows the peak (map) or mean (mask) of its entries, blank if not finite."""
    return selection.keep(
        (*selection.matrix_key, "thumbnail"),
        lambda: stamp(small_tile(selection, SIDE).cells, signed=selection.signed),
    )
