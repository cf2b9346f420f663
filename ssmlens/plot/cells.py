"""Figures of arrays of any size with labelled rows and columns: a small image, and values under the pointer."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plot.labels import literal
from ssmlens.plot.picture import picture
from ssmlens.plot.scales import Scale
from ssmlens.plot.theme import LABEL, LIGHT, Theme, template

HOVERED = 32_768
"""Most cells with a value for the pointer; in larger arrays neighbours share one."""


def shrink_means(
    values: Float[np.ndarray, "row column"], rows: int, columns: int
) -> Float[np.ndarray, "_ _"]:
    """Average rectangles of `rows` × `columns` cells; the last ones may be smaller.

    Args:
        values: An array with two axes.
        rows: Rows to merge into one.
        columns: Columns to merge into one.
    """
    means = values
    for axis, several in enumerate((rows, columns)):
        if several > 1:
            starts = np.arange(0, values.shape[axis], several)
            counts = np.diff(starts, append=values.shape[axis])
            sums = np.add.reduceat(means, starts, axis=axis)
            means = sums / np.expand_dims(counts, 1 - axis)
    return means.astype(values.dtype, copy=False)


def paint(
    figure: go.Figure,
    cells: Float[np.ndarray, "row column"],
    *,
    hover: str,
    signed: bool,
    scale: Scale = "linear",
    limit: float | None = None,
    axes: tuple[str, str] = ("x", "y"),
    bar: bool = True,
) -> None:
    """Add cells to a figure with a `labelled_axis` label for each row and column: row 0 on top, column 0 on the left.

    Args:
        figure: The figure.
        cells: The values; NaN for an empty cell.
        hover: Text under the pointer, with plotly's %{x}, %{y} and %{customdata}.
        signed: True for a diverging scale about 0, False for values in [0, limit].
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; by default from these cells.
        axes: The axes of a subplot.
        bar: Whether to draw the colour bar.
    """
    rows, columns = cells.shape
    place = (-0.5, -0.5, float(columns), float(rows))
    look: Any = {"signed": signed, "scale": scale, "limit": limit, "axes": axes}
    image, colours = picture(cells, place, **look, bar_length=0.8)
    figure.add_layout_image(image)
    several = max(1, math.ceil(math.sqrt(cells.size / HOVERED)))
    few_rows, few_columns = min(several, rows), min(several, columns)
    values = shrink_means(cells, few_rows, few_columns)
    where = {
        **{"x0": (few_columns - 1) / 2, "dx": few_columns},
        **{"y0": (few_rows - 1) / 2, "dy": few_rows},
    }
    note = "" if several == 1 else f" (mean of {few_rows}×{few_columns} cells)"
    figure.add_trace(
        go.Heatmap(
            z=values.astype(np.float32),
            customdata=values.astype(np.float32),
            opacity=0,
            showscale=False,
            hoverongaps=False,
            hovertemplate=f"{hover}{note}<extra></extra>",
            xaxis=axes[0],
            yaxis=axes[1],
            **where,
        )
    )
    if bar:
        figure.add_trace(colours)


def labelled_axis(
    labels: Sequence[str], title: str, ticks: Sequence[tuple[int, str]], *, down: bool = False
) -> dict[str, Any]:
    """Make an axis of cells: each has a label under the pointer; ticks are fewer and shorter.

    Args:
        labels: A unique label for each row or column, escaped for plotly (`labels.literal`).
        title: The axis title.
        ticks: Position in cells from the first, and text, of each tick.
        down: True for rows: the first one is on top.
    """
    limits = [-0.5, len(labels) - 0.5]
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(labels),
        "range": limits[::-1] if down else limits,
        "tickvals": [labels[at] for at, _ in ticks],  # a number could be taken for a label
        "ticktext": [text for _, text in ticks],
        "tickfont": LABEL,
        "title": {"text": title, "standoff": 6},
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }


def number_ticks(first: int, end: int, several: int, most: int = 12) -> list[tuple[int, str]]:
    """Make ticks for `labelled_axis` at round numbers in [`first`, `end`); `several` numbers share a cell."""
    step = _round_step((end - first) / most)
    numbers = range(first + (-first) % step, end, step)
    return [((n - first) // several, str(n)) for n in numbers]


def nothing(reason: str, theme: Theme = LIGHT) -> go.Figure:
    """Draw an empty figure with a reason."""
    none = {"visible": False}
    figure = go.Figure(layout={"template": template(theme), "xaxis": none, "yaxis": none})
    return figure.add_annotation(text=literal(reason), showarrow=False, font={"color": theme.muted})


def runs(first: int, end: int, several: int) -> list[str]:
    """Label each run of `several` numbers in [`first`, `end`): "0–7", "8–15", ..., "16"."""
    starts = range(first, end, several)
    ends = (min(start + several, end) - 1 for start in starts)
    return [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]


def _round_step(least: float) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... that is at least `least`."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if step >= least:
                return step
        power *= 10
