"""Figures of W_B and W_C: their two products as images, the diagonals against other entries; rows of weights."""

import math

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plot.cells import labelled_axis, number_ticks, paint, runs, shrink_means
from ssmlens.plot.scales import Scale
from ssmlens.plot.theme import LIGHT, SIGNED, Theme, colorscale, template

_SECOND = str(colorscale(SIGNED)[-1][1])
_MARGIN = {"l": 8, "r": 8, "t": 8, "b": 8}
_ROWS, _COLUMNS = 300, 700  # most cells of an image of weights


def input_product_figure(
    cells: Float[np.ndarray, "read write"],
    several: int,
    inputs: int,
    *,
    names: tuple[str, str] = ("W_B", "W_C"),
    scale: Scale = "linear",
    limit: float | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw W_Cᵀ W_B: the match of a query from one input with a key from another.

    Args:
        cells: Its entries, or means of squares of them.
        several: Inputs per side of a cell.
        inputs: Number of inputs.
        names: The weights that write, and those that read.
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; by default from these cells.
        theme: LIGHT or DARK.
    """
    write, read = names
    hover = f"read by {read}      %{{y}}<br>written by {write}   %{{x}}<br>" + (
        "value            %{customdata:.3g}"
        if several == 1
        else f"mean of {several}×{several}    %{{customdata:.3g}}"
    )
    return _square(
        cells,
        several,
        inputs,
        hover,
        (f"input of {write}", f"input of {read}"),
        scale,
        limit,
        theme,
    )


def state_product_figure(
    cells: Float[np.ndarray, "write read"],
    *,
    names: tuple[str, str] = ("W_B", "W_C"),
    scale: Scale = "linear",
    limit: float | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw W_B W_Cᵀ: the similarity of what one state writes and another reads.

    Args:
        cells: Its entries.
        names: The weights that write, and those that read.
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; by default from these cells.
        theme: LIGHT or DARK.
    """
    write, read = names
    hover = "state written   %{y}<br>state read      %{x}<br>value           %{customdata:.3g}"
    return _square(
        cells, 1, len(cells), hover, (f"state of {read}", f"state of {write}"), scale, limit, theme
    )


def rows_figure(
    rows: Float[np.ndarray, "head input"],
    *,
    scale: Scale = "linear",
    limit: float | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw weights with one row per head: heads down, inputs to the right; neighbours may share a cell.

    Args:
        rows: The weights, one row per head.
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; by default from these cells.
        theme: LIGHT or DARK.
    """
    heads, inputs = rows.shape
    down, across = (math.ceil(count / most) for count, most in ((heads, _ROWS), (inputs, _COLUMNS)))
    figure = go.Figure()
    hover = "head     %{y}<br>input    %{x}<br>weight   %{customdata:.3g}"
    cells = shrink_means(rows, down, across)
    paint(figure, cells, hover=hover, signed=True, scale=scale, limit=limit)
    axes = ((runs(0, n, m), number_ticks(0, n, m)) for n, m in ((heads, down), (inputs, across)))
    of_heads, of_inputs = axes
    figure.update_layout(
        template=template(theme),
        margin=_MARGIN,
        xaxis={**labelled_axis(of_inputs[0], "input", of_inputs[1]), "fixedrange": True},
        yaxis={**labelled_axis(of_heads[0], "head", of_heads[1], down=True), "fixedrange": True},
    )
    return figure


def entries_figure(
    edges: Float[np.ndarray, " edge"],
    diagonal: Float[np.ndarray, " bin"],
    others: Float[np.ndarray, " bin"],
    rms: float,
    *,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw the diagonal of a product against its other entries.

    Args:
        edges: Edges of bins of values.
        diagonal: Share of the diagonal's entries in each bin.
        others: Share of the other entries in each bin.
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
