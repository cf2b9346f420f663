"""Signals along a prompt: Δ of every head as an image, the norms of B and C as lines."""

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
_MARGIN = {"l": 64, "r": 88, "t": 8, "b": 8}  # the same for both: tokens stand below each other
_LABELS = 40


@dataclasses.dataclass(frozen=True)
class Window:
    """Tokens that a figure shows.

    Attributes:
        tokens: The prompt's tokens as text, all of them.
        first: The first one shown.
        end: The one after the last.
        block: How many share a column.
    """

    tokens: Sequence[str]
    first: int
    end: int
    block: int = 1

    @property
    def labels(self) -> list[str]:
        """A label a column, "17 c" or "16–19 the·cat·sat", for plotly."""
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
        """What JavaScript needs to know which tokens a column is (assets/signals.js)."""
        return {"first": self.first, "end": self.end, "block": self.block}


def steps_figure(
    cells: Float[np.ndarray, "row column"],
    heads: Sequence[str],
    order: str,
    window: Window,
    *,
    scale: Scale = "linear",
    limit: float | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw Δ: heads run down, tokens to the right.

    Args:
        cells: Mean Δ of the heads of a row over the tokens of a column.
        heads: A label for each row, such as "16–23" or "rank 16–23".
        order: What the rows are: "head", "heads by mean Δ".
        window: The tokens; as many columns as it has labels.
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; robust by default.
        theme: LIGHT or DARK.
    """
    figure = go.Figure()
    every = number_ticks(0, len(heads), 1)
    ticks = [(at, heads[int(row)].removeprefix("rank ").partition("–")[0]) for at, row in every]
    hover = "token  %{x}<br>head   %{y}<br>Δ      %{customdata:.3g}"
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


def norms_figure(
    norms: dict[str, Float[np.ndarray, "token group"]], window: Window, *, theme: Theme = LIGHT
) -> go.Figure:
    """Draw the length of B and C at each token: the mean over groups, and their range as a band.

    Args:
        norms: ‖B_i‖ and ‖C_i‖ by name, a value for each column of the window and each group.
        window: The tokens.
        theme: LIGHT or DARK.
    """
    figure = go.Figure()
    labels = window.labels
    for (name, values), colour in zip(norms.items(), (theme.accent, _SECOND), strict=True):
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
            name=f"‖{name}‖",
            mode="lines",
            line={"width": 1.5, "color": colour},
            hovertemplate=f"‖{name}‖ %{{y:.3g}}<extra></extra>",
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
            "title": {"text": "norm", "standoff": 6},
            "automargin": True,
            "rangemode": "tozero",
            "fixedrange": True,
        },
    )
    return figure
