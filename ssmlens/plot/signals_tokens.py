"""Figures of signals along a prompt: Δ or β of every head as an image; norms of B and C, or the decay, as lines."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plot.cells import labelled_axis, number_ticks, paint, runs
from ssmlens.plot.labels import literal, visible
from ssmlens.plot.scales import Scale
from ssmlens.plot.theme import LIGHT, SIGNED, Theme, colorscale, template

_SECOND = str(colorscale(SIGNED)[-1][1])
_MARGIN = {
    "l": 64,
    "r": 88,
    "t": 8,
    "b": 8,
}  # the same for both figures, so that their tokens align
_LABELS = 40


@dataclasses.dataclass(frozen=True)
class Window:
    """Tokens that a figure shows.

    Attributes:
        tokens: All tokens of the prompt as text.
        first: The first one shown.
        end: One past the last one shown.
        block: Tokens per column.
    """

    tokens: Sequence[str]
    first: int
    end: int
    block: int = 1

    @property
    def labels(self) -> list[str]:
        """A label for each column, "17 c" or "16–19 the·cat·sat", escaped for plotly."""
        starts = range(self.first, self.end, self.block)
        places = runs(self.first, self.end, self.block)
        texts = ("".join(self.tokens[i : min(i + self.block, self.end)]) for i in starts)
        return [
            literal(f"{place} {visible(text, longest=12)}")
            for place, text in zip(places, texts, strict=True)
        ]

    @property
    def axis(self) -> dict[str, Any]:
        """The axis of these tokens."""
        ticks = [
            (at, literal(f"{place} {visible(self.tokens[int(place)], longest=12)}"))
            for at, place in number_ticks(self.first, self.end, self.block, _LABELS)
        ]
        return {**labelled_axis(self.labels, "token", ticks), "tickangle": 90}

    @property
    def meta(self) -> dict[str, int]:
        """The data that JavaScript needs to find a column's tokens (assets/signals.js)."""
        return {"first": self.first, "end": self.end, "block": self.block}


def steps_figure(
    cells: Float[np.ndarray, "row column"],
    heads: Sequence[str],
    order: str,
    window: Window,
    *,
    symbol: str = "Δ",
    scale: Scale = "linear",
    limit: float | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw Δ (delta rule: β): heads down, tokens to the right.

    Args:
        cells: Mean Δ over the heads of a row and the tokens of a column.
        heads: A label for each row, such as "16–23" or "rank 16–23".
        order: Title of the rows: "head", "heads by mean Δ".
        window: The tokens; it has one label per column.
        symbol: The signal: "Δ" or "β".
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; by default a robust limit.
        theme: LIGHT or DARK.
    """
    figure = go.Figure()
    every = number_ticks(0, len(heads), 1)
    ticks = [(at, heads[int(row)].removeprefix("rank ").partition("–")[0]) for at, row in every]
    hover = "token  %{x}<br>head   %{y}<br>" + f"{symbol:7}%{{customdata:.3g}}"
    paint(figure, cells, hover=hover, signed=False, scale=scale, limit=limit)
    figure.update_layout(
        template=template(theme),
        margin=_MARGIN,
        meta=window.meta,
        dragmode="zoom",
        xaxis=window.axis,
        yaxis={**labelled_axis(heads, order, ticks, down=True), "fixedrange": True},
    )
    return figure


def lines_figure(
    lines: dict[str, Float[np.ndarray, "token _"]],
    title: str,
    window: Window,
    *,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw values at each token, such as ‖B‖ and ‖C‖: the mean over groups or heads, and their range as a band.

    Args:
        lines: At most two lines by name ("‖B‖"): a value for each column of the window and each group or head.
        title: Title of the axis of values.
        window: The tokens.
        theme: LIGHT or DARK.
    """
    figure = go.Figure()
    labels = window.labels
    for (name, values), colour in zip(lines.items(), (theme.accent, _SECOND), strict=False):
        if values.shape[1] > 1:
            around = np.concatenate([values.max(1), values.min(1)[::-1]])
            figure.add_scatter(
                x=labels + labels[::-1],
                y=around,
                fill="toself",
                fillcolor=colour,
                opacity=0.2,
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
            )
        figure.add_scatter(
            x=labels,
            y=values.mean(1),
            name=name,
            mode="lines",
            line={"width": 1.5, "color": colour},
            hovertemplate=f"{name} %{{y:.3g}}<extra></extra>",
        )
    figure.update_layout(
        template=template(theme),
        margin=_MARGIN | {"t": 24},
        meta=window.meta,
        hovermode="x",
        dragmode="zoom",
        legend={"y": 1.0, "yanchor": "bottom"},
        xaxis=window.axis,
        yaxis={
            "title": {"text": title, "standoff": 6},
            "automargin": True,
            "rangemode": "tozero",
            "fixedrange": True,
        },
    )
    return figure
