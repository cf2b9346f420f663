"""A map, a mask or a channel's map as a heatmap with tokens on both axes."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plots.labels import token_labels
from ssmlens.plots.raster import block_reduce, data_uri, palette_png
from ssmlens.plots.scales import Coloured, Scale, coloured
from ssmlens.plots.theme import LABEL, LIGHT, SIGNED, UNIT, Theme, colorscale, template

NUMBERS = 300 * 300
"""Cells up to which a figure carries every number; a larger map is carried as an image."""

HOVER_SIDE = 256
"""Blocks a side that can be hovered over a map carried as an image."""


def attention_heatmap(
    values: Float[np.ndarray, "query key"],
    query_tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    signed: bool = True,
    scale: Scale = "linear",
    limit: float | None = None,
    first_query: int = 0,
    first_key: int = 0,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw one map: queries run down, keys to the right; hover names both tokens and the value.

    Up to `NUMBERS` cells the figure carries the values. Beyond, it carries a PNG of full resolution
    under a hover layer of blocks, each showing its value of largest magnitude.

    Args:
        values: The map or a rectangle of it; NaN where there is nothing to show (`raster.causal`).
        query_tokens: A string for each row.
        key_tokens: A string for each column; the query tokens when absent.
        signed: True for maps (a diverging scale about 0), False for masks (0 to 1).
        scale: "linear", "symlog" or "rank" (`scales.coloured`).
        limit: The value at the end of the colour scale; robust by default.
        first_query: Position in the prompt of the first row.
        first_key: Position in the prompt of the first column.
        theme: LIGHT or DARK.

    Raises:
        ValueError: When the tokens are not as many as rows and columns.
    """
    key_tokens = query_tokens if key_tokens is None else key_tokens
    if values.shape != (len(query_tokens), len(key_tokens)):
        raise ValueError(
            f"a map of {values.shape} needs as many query and key tokens, "
            f"not {len(query_tokens)} and {len(key_tokens)}"
        )
    rows, columns = token_labels(query_tokens, first_query), token_labels(key_tokens, first_key)
    shown = coloured(values, scale, signed=signed, limit=limit)
    figure = go.Figure(layout=_layout(rows, columns, theme))
    if values.size <= NUMBERS:
        figure.add_trace(_cells(values, shown, signed=signed).update(x=columns, y=rows))
        return figure
    stops = SIGNED if signed else UNIT
    figure.add_layout_image(
        source=data_uri(palette_png(shown.position, stops, signed=signed)),
        **{"xref": "x", "yref": "y", "sizing": "stretch", "layer": "below"},
        **{"x": -0.5, "y": -0.5, "sizex": len(columns), "sizey": len(rows)},
    )
    block = -(-max(values.shape) // HOVER_SIDE)
    peaks = block_reduce(values, block, "peak")
    coarse = coloured(peaks, scale, signed=signed, limit=shown.limit)
    trace = _cells(peaks, coarse, signed=signed)
    trace.update(x0=(block - 1) / 2, dx=block, y0=(block - 1) / 2, dy=block)
    trace.update(opacity=0, hovertemplate=_hover(f"peak of {block}×{block}"))
    figure.add_trace(trace)
    return figure


def _cells(values: np.ndarray, shown: Coloured, *, signed: bool) -> go.Heatmap:
    return go.Heatmap(
        z=shown.position.astype(np.float32),
        customdata=values.astype(np.float32),
        zmin=-1 if signed else 0,
        zmax=1,
        colorscale=colorscale(SIGNED if signed else UNIT),
        hoverongaps=False,
        hovertemplate=_hover("value"),
        colorbar={
            "tickvals": shown.ticks[0],
            "ticktext": shown.ticks[1],
            "thickness": 10,
            "len": 0.6,
            "outlinewidth": 0,
            "xpad": 8,
        },
    )


def _hover(what: str) -> str:
    return f"query  %{{y}}<br>key    %{{x}}<br>{what}  %{{customdata:.3g}}<extra></extra>"


def _layout(rows: list[str], columns: list[str], theme: Theme) -> go.Layout:
    axis = {
        "type": "category",
        "showgrid": False,
        "zeroline": False,
        "tickfont": LABEL,
        "automargin": True,
    }
    return go.Layout(
        template=template(theme),
        margin={"l": 48, "r": 16, "t": 48, "b": 16},
        xaxis={
            **axis,
            "title": {"text": "key token (looked at)"},
            "side": "top",
            "tickangle": -90,
            "categoryarray": columns,
            "range": [-0.5, len(columns) - 0.5],
        },
        yaxis={
            **axis,
            "title": {"text": "query token (looking)"},
            "categoryarray": rows,
            "range": [len(rows) - 0.5, -0.5],
        },
    )
