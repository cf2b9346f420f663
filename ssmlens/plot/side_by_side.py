"""Join several figures of maps into one with linked zoom."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ssmlens.plot.labels import label_pixels, literal
from ssmlens.plot.theme import LIGHT, Spec, Theme, plain_template

MOST_LABELS = 20
"""Most token labels along an axis of a panel."""

_TITLE = 24  # pixels
_BAR = 48  # below a panel, for its colour bar
_RIGHT = 8  # right of the last panel
_GAP = 0.025  # between panels, as a share of the width
_LABELLED_GAP = 0.1

_Span = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel of the joined figure.

    Attributes:
        title: Its title, as plain text.
        figure: A figure of one map (`tiles.tile_spec`); None if there is nothing to draw.
        note: The text in place of a missing figure.
    """

    title: str
    figure: Spec | None
    note: str = ""


def side_by_side(
    rows: Sequence[Sequence[Panel | None]],
    *,
    side: int = 380,
    same_queries: bool = False,
    theme: Theme = LIGHT,
) -> Spec:
    """Join figures of maps into rows of panels with linked axes: zooming one zooms all.

    Every panel spans the tokens of all panels and has its colour bar below. Panels are square at the layout's width
    and height, and about square at any size with these proportions.

    Args:
        rows: Panels, row after row; None leaves a place empty. Each panel's axes are in positions of tokens.
        side: Width and height of a panel's map in pixels.
        same_queries: Whether all panels have the same tokens; then only the leftmost have labels.
        theme: LIGHT or DARK.
    """
    columns = max(map(len, rows))
    drawn = [panel.figure for row in rows for panel in row if panel and panel.figure]
    above = _TITLE + max(
        (label_pixels(figure["layout"]["xaxis"]["ticktext"]) for figure in drawn), default=0
    )
    left = max((label_pixels(figure["layout"]["yaxis"]["ticktext"]) for figure in drawn), default=0)
    tall = above + side + _BAR
    height = len(rows) * tall
    gap = _GAP if same_queries else _LABELLED_GAP
    width = (1 - gap * (columns - 1)) / columns
    joined = _Joined(theme)
    for down, row in enumerate(rows):
        top = 1 - down * tall / height
        vertical = (top - (above + side) / height, top - above / height)
        for across, panel in enumerate(row):
            start = across * (width + gap)
            if panel is not None:
                joined.write(panel.title, start, top, bold=True)
            if panel is not None and panel.figure is None:
                joined.write(panel.note, start + width / 2, sum(vertical) / 2)
            elif panel is not None:
                labels = not (across and same_queries)
                joined.add(drawn.pop(0), (start, start + width), vertical, labels=labels)
    return joined.figure(round(left + side / width + _RIGHT), height, left)


class _Joined:
    """The joined figure under construction."""

    def __init__(self, theme: Theme):
        self._theme = theme
        self._traces: list[dict[str, Any]] = []
        self._axes: dict[str, list[dict[str, Any]]] = {"x": [], "y": []}
        self._images: list[dict[str, Any]] = []
        self._texts: list[dict[str, Any]] = []

    def write(self, text: str, x: float, y: float, *, bold: bool = False) -> None:
        """Write a line of text: a title starts at the place, a note is centred on it."""
        place = {"xanchor": "left", "yanchor": "top"} if bold else {}
        escaped = literal(text)
        self._texts.append(
            {
                **{"x": x, "y": y, "xref": "paper", "yref": "paper", "showarrow": False, **place},
                "text": f"<b>{escaped}</b>" if bold else escaped,
                "font": {"size": 12, "color": self._theme.ink if bold else self._theme.muted},
            }
        )

    def add(self, figure: Spec, across: _Span, down: _Span, *, labels: bool) -> None:
        """Add a figure's axes and image, and its colour bar below."""
        number = len(self._axes["x"]) + 1
        x, y = (name if number == 1 else f"{name}{number}" for name in "xy")
        for name, domain, anchor in (("x", across, y), ("y", down, x)):
            axis = dict(figure["layout"][f"{name}axis"])
            every = -(-len(axis["tickvals"]) // MOST_LABELS)
            axis |= {key: axis[key][::every] for key in ("tickvals", "ticktext")}
            axis |= {"title": None, "automargin": False, "domain": domain, "anchor": anchor}
            axis |= {"showticklabels": labels or name == "x"}
            self._axes[name].append(axis if number == 1 else {**axis, "matches": name})
        self._images += [image | {"xref": x, "yref": y} for image in figure["layout"]["images"]]
        *numbers, bar = figure["data"]
        self._traces += [trace | {"xaxis": x, "yaxis": y} for trace in numbers]
        colorbar = bar["marker"]["colorbar"] | {
            **{"orientation": "h", "lenmode": "fraction", "len": (across[1] - across[0]) * 0.9},
            **{"x": sum(across) / 2, "xanchor": "center", "xpad": 0},
            **{"y": down[0], "yanchor": "top", "ypad": 6},
            **{"tickfont": {"size": 11, "color": self._theme.muted}, "tickangle": 0},
        }
        marker = bar["marker"] | {"colorbar": colorbar}
        self._traces.append(bar | {"marker": marker, "xaxis": x, "yaxis": y})

    def figure(self, width: int, height: int, left: int) -> Spec:
        """Build the figure; every panel spans the tokens of all panels."""
        named = {}
        for name, axes in self._axes.items():
            ends = [end for axis in axes for end in axis["range"]]
            for number, axis in enumerate(axes, start=1):
                limits = [min(ends), max(ends)]
                axis["range"] = limits if name == "x" else limits[::-1]
                named[f"{name}axis{number if number > 1 else ''}"] = axis
        layout = {
            **named,
            "images": self._images,
            "annotations": self._texts,
            "template": plain_template(self._theme),
            "width": width,
            "height": height,
            "margin": {"l": left, "r": _RIGHT, "t": 0, "b": 0, "autoexpand": False},
            "dragmode": "zoom",
        }
        return {"data": self._traces, "layout": layout}
