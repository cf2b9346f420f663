"""The template of a card: a title, facts, and small pictures of maps."""

import dataclasses
from collections.abc import Sequence

import jinja2

from ssmlens.plot.matrix import small_tile
from ssmlens.plot.picture import stamp
from ssmlens.plot.raster import data_uri
from ssmlens.plot.selection import Drawable, Kind, Selection

LONGEST = 2048
"""Longest sequence, in tokens, whose recorded map is computed for a picture."""

_SIDE = 96  # most cells per side of a picture


@dataclasses.dataclass(frozen=True)
class Picture:
    """A small picture with its caption."""

    source: str
    caption: str


def render(
    title: str,
    facts: Sequence[tuple[str, str]],
    pictures: Sequence[Picture],
    *,
    side: int = 120,
    note: str = "",
) -> str:
    """Render a card as HTML; all text is escaped.

    Args:
        title: The title.
        facts: Names and values.
        pictures: Maps.
        side: Side of a picture in pixels.
        note: The last line.
    """
    return _CARD.render(title=title, facts=facts, pictures=pictures, side=side, note=note)


def picture(layer: Drawable, kind: Kind, caption: str, prompt: int = 0) -> Picture:
    """Draw a small picture of a layer's matrix."""
    selection = Selection(layer=layer, kind=kind, prompt=prompt)
    cells = small_tile(selection, _SIDE).cells
    return Picture(data_uri(stamp(cells, signed=selection.signed)), caption)


# Colours that are visible on white and on black, as a notebook may be either.
_CARD = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    """<div style="font: 13px system-ui, sans-serif; display: inline-block">
<b>{{ title }}</b>
<div style="display: flex; gap: 1em; flex-wrap: wrap; margin: .4em 0">
{%- for picture in pictures %}
<figure style="margin: 0; text-align: center"><img src="{{ picture.source }}" alt="{{ picture.caption }}"
 width="{{ side }}" height="{{ side }}" style="image-rendering: pixelated; border: 1px solid #8884">
<figcaption style="opacity: .7">{{ picture.caption }}</figcaption></figure>
{%- endfor %}
{%- if facts %}
<table style="align-self: start">{% for name, value in facts %}
<tr><td style="text-align: left; opacity: .7">{{ name }}</td><td style="text-align: left">{{ value }}</td></tr>
{%- endfor %}</table>
{%- endif %}
</div>
{%- if note %}<div style="opacity: .7">{{ note }}</div>{% endif %}
</div>"""
)
