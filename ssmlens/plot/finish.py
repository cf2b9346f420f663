"""Give a figure a title, a background and a size."""

from typing import Literal

import plotly.graph_objects as go

from ssmlens.errors import UsageError
from ssmlens.plot.labels import literal
from ssmlens.plot.theme import LIGHT, Spec, Theme

DEFAULT: Literal["default"] = "default"
"""Stands for the default title, which says what the figure shows."""

Length = int | str
"""Pixels, or a number with its unit: "9cm", "3.5in", "90mm"."""

_TITLE, _TOP_AXIS = 44, 96  # pixels above a figure for its title and for an axis of tokens
_PIXELS = {"px": 1.0, "in": 96.0, "cm": 96.0 / 2.54, "mm": 96.0 / 25.4}
_LEAST, _MOST = 100, 10_000


def finished(
    drawn: go.Figure | Spec,
    title: str | None,
    size: tuple[Length | None, Length | None],
    own_size: tuple[int, int],
    theme: Theme = LIGHT,
) -> go.Figure:
    """Return the figure with a title, a background and a size.

    Args:
        drawn: The figure.
        title: The title; None for none, without its space.
        size: Width and height; None for the default.
        own_size: The default width and height in pixels.
        theme: Colours.

    Raises:
        UsageError: A size is invalid, or not between 100 and 10000 pixels.
    """
    figure = go.Figure(drawn)
    width, height = (
        default if requested is None else pixels(requested)
        for requested, default in zip(size, own_size, strict=True)
    )
    layout = figure.to_dict()["layout"]
    margin = layout.get("margin", {})
    on_top = layout["xaxis"].get("side") == "top" and margin.get("autoexpand", True)
    above = _TITLE * (title is not None) + (_TOP_AXIS if on_top else margin.get("t", 28))
    figure.update_layout(
        width=width,
        height=height,
        paper_bgcolor=theme.surface,
        margin={"t": above, "r": max(24, margin.get("r", 24)), "l": max(16, margin.get("l", 68))},
    )
    if title is not None:
        figure.update_layout(
            title={
                "text": literal(title),
                **{"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 16, "t": 14}},
                **{"y": 1, "yref": "container", "yanchor": "top"},
            }
        )
    return figure


def pixels(length: Length) -> int:
    """Convert a length to pixels, 96 to the inch. Raises UsageError if it is invalid, too small or too large."""
    text = f"{length}px" if isinstance(length, int) or length.isdigit() else length
    number, unit = text[:-2], text[-2:]
    try:
        count = round(float(number) * _PIXELS[unit])
    except (KeyError, ValueError, OverflowError) as error:
        raise UsageError(
            f"a size is a number of pixels or has a unit such as 9cm, not {length!r}"
        ) from error
    if not _LEAST <= count <= _MOST:
        raise UsageError(f"width and height must be {_LEAST} to {_MOST} pixels, not {count}")
    return count
