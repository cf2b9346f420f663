"""Maps and masks as small pictures, made when a browser asks for one, and kept."""

from ssmlens.plot.matrix import small_tile
from ssmlens.plot.picture import stamp
from ssmlens.plot.selection import Selection

SIDE = 128
"""Most pixels a side."""


def thumbnail(what: Selection) -> bytes:
    """A PNG of a map or mask: blocks show their peak (maps) or mean (masks), nothing where it is not finite."""
    return what.keep(
        (*what.matrix_key, "thumbnail"),
        lambda: stamp(small_tile(what, SIDE).cells, signed=what.signed),
    )
