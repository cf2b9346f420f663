"""Arrays of any size as a figure of labelled rows and columns: a small image, and values under the pointer."""

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
"""Most cells that carry a value for the pointer; of more, neighbours share one."""


def shrink_means(
    values: Float[np.ndarray, "row column"], rows: int, columns: int
) -> Float[np.ndarray, "_ _"]:
    """Means of rectangles of `rows` × `columns` cells; the last ones may be smaller.

    Args:
        values: Any array of two axes.
        rows: Rows that become one.
        columns: Columns that become one.
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
    """Add cells to a figure whose axes are `labelled_axis` of as many labels: row 0 above, column 0 at the left.

    Args:
        figure: The figure.
        cells: The values; NaN where there is nothing.
        hover: What the pointer reads, with plotly's %{x}, %{y} and %{customdata}.
        signed: True for a diverging scale about 0, False for values in [0, limit].
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; of these cells by default.
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
    """An axis of cells: the pointer reads their labels, the ticks are fewer and shorter.

    Args:
        labels: A unique label for each row or column, as plotly shall draw it (`labels.literal`).
        title: What they are.
        ticks: Where, in cells from the first, and what stands there.
        down: For rows, the first one above.
    """
    shown = [-0.5, len(labels) - 0.5]
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(labels),
        "range": shown[::-1] if down else shown,
        "tickvals": [labels[at] for at, _ in ticks],  # a number could be taken for a label
        "ticktext": [text for _, text in ticks],
        "tickfont": LABEL,
        "title": {"text": title, "standoff": 6},
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }


def number_ticks(first: int, end: int, several: int, most: int = 12) -> list[tuple[int, str]]:
    """Ticks for `labelled_axis` at round numbers from `first` to before `end`, where `several` share a cell."""
    step = _round_step((end - first) / most)
    numbers = range(first + (-first) % step, end, step)
    return [((n - first) // several, str(n)) for n in numbers]


def nothing(why: str, theme: Theme = LIGHT) -> go.Figure:
    """A figure that says why there is none."""
    none = {"visible": False}
    figure = go.Figure(layout={"template": template(theme), "xaxis": none, "yaxis": none})
    return figure.add_annotation(text=literal(why), showarrow=False, font={"color": theme.muted})


def runs(first: int, end: int, several: int) -> list[str]:
    """A label for each run of `several` numbers from `first` to before `end`: "0–7", "8–15", ..., "16"."""
    starts = range(first, end, several)
    ends = (min(start + several, end) - 1 for start in starts)
    return [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]


def _round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below `least`."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if step >= least:
                return step
        power *= 10
