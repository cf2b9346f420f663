"""Maps and masks as small pictures, made when a browser asks for one, and kept."""

from ssmlens.plots.raster import palette_png
from ssmlens.plots.scales import coloured
from ssmlens.plots.theme import SIGNED, UNIT
from ssmlens_dashboard.views.cache import Cache
from ssmlens_dashboard.views.maps import Drawn, small_tile

SIDE = 128
"""Most pixels a side."""

_PICTURES: Cache[bytes] = Cache(16 << 20, len)


def thumbnail(what: Drawn) -> bytes:
    """A PNG of a map or mask: blocks show their peak (maps) or mean (masks), nothing where it is not finite."""
    return _PICTURES.get(what.key, lambda: _picture(what))


def _picture(what: Drawn) -> bytes:
    shown = coloured(small_tile(what, SIDE).cells, signed=what.signed)
    return palette_png(shown.position, SIGNED if what.signed else UNIT, signed=what.signed)
