"""W_B and W_C against each other: their two products as images, and the diagonals against the rest."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plot.cells import labelled_axis, number_ticks, paint, runs
from ssmlens.plot.scales import Scale
from ssmlens.plot.theme import LIGHT, SIGNED, Theme, colorscale, template

_SECOND = str(colorscale(SIGNED)[-1][1])
_MARGIN = {"l": 8, "r": 8, "t": 8, "b": 8}


def input_product_figure(
    cells: Float[np.ndarray, "read write"],
    several: int,
    inputs: int,
    *,
    scale: Scale = "linear",
    limit: float | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw W_Cᵀ W_B: what a query made of one input finds in a key made of another.

    Args:
        cells: Its entries, or means of squares of them.
        several: Inputs a cell spans a side.
        inputs: How many inputs there are.
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; of these cells by default.
        theme: LIGHT or DARK.
    """
    hover = "read by W_C      %{y}<br>written by W_B   %{x}<br>" + (
        "value            %{customdata:.3g}"
        if several == 1
        else f"mean of {several}×{several}    %{{customdata:.3g}}"
    )
    return _square(
        cells, several, inputs, hover, ("input of W_B", "input of W_C"), scale, limit, theme
    )


def state_product_figure(
    cells: Float[np.ndarray, "write read"],
    *,
    scale: Scale = "linear",
    limit: float | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw W_B W_Cᵀ: how alike what a state writes and what another reads are.

    Args:
        cells: Its entries.
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; of these cells by default.
        theme: LIGHT or DARK.
    """
    hover = "state written   %{y}<br>state read      %{x}<br>value           %{customdata:.3g}"
    return _square(
        cells, 1, len(cells), hover, ("state of W_C", "state of W_B"), scale, limit, theme
    )


def entries_figure(
    edges: Float[np.ndarray, " edge"],
    diagonal: Float[np.ndarray, " bin"],
    others: Float[np.ndarray, " bin"],
    rms: float,
    *,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw the diagonal of a product against the rest of it.

    Args:
        edges: Edges of bins of values.
        diagonal: Share of the diagonal's entries in each bin.
        others: Share of the other entries in each.
        rms: Root mean square of the others, drawn as a band about 0.
        theme: LIGHT or DARK.
    """
    figure = go.Figure()
    middle = (edges[:-1] + edges[1:]) / 2
    drawn = (
        ("off the diagonal", others, theme.muted),
        ("diagonal", diagonal, _SECOND),
    )
    for name, shares, colour in drawn:
        figure.add_bar(
            x=middle,
            y=shares,
            width=np.diff(edges),
            name=name,
            marker={"color": colour, "opacity": 0.6, "line": {"width": 0}},
            hovertemplate=f"{name}<br>about %{{x:.3g}}: %{{y:.2%}}<extra></extra>",
        )
    if np.isfinite(rms):
        for at in (-rms, rms):
            figure.add_vline(x=at, line={"color": theme.muted, "width": 1, "dash": "dot"})
    figure.update_layout(
        template=template(theme),
        barmode="overlay",
        bargap=0,
        margin={"l": 8, "r": 12, "t": 24, "b": 40},
        legend={"y": 1.0, "yanchor": "bottom"},
        xaxis={"title": {"text": "entry"}, "showgrid": False},
        yaxis={
            "title": {"text": "share", "standoff": 6},
            "tickformat": ".0%",
            "automargin": True,
        },
    )
    return figure


def _square(
    cells: np.ndarray,
    several: int,
    count: int,
    hover: str,
    titles: tuple[str, str],
    scale: Scale,
    limit: float | None,
    theme: Theme,
) -> go.Figure:
    figure = go.Figure()
    paint(figure, cells, hover=hover, signed=True, scale=scale, limit=limit)
    labels, ticks = runs(0, count, several), number_ticks(0, count, several)
    across, down = titles
    figure.update_layout(
        template=template(theme),
        margin=_MARGIN,
        xaxis={**labelled_axis(labels, across, ticks), "side": "top", "fixedrange": True},
        yaxis={**labelled_axis(labels, down, ticks, down=True), "fixedrange": True},
    )
    return figure
