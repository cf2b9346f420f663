"""The figure of a logit's terms: bars over the text, terms × source tokens, and each term's total."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from ssmlens.plot.cells import labelled_axis, paint
from ssmlens.plot.labels import label_pixels, literal, token_labels
from ssmlens.plot.scales import Scale
from ssmlens.plot.theme import LIGHT, SIGNED, Spec, Theme, template

_BARS, _ROW, _GAP = 150, 17, 14  # pixels
_LABELS = 48  # most token labels along the figure


def term_panels(
    by_source: Float[np.ndarray, "term source"],
    values: Float[np.ndarray, " term"],
    terms: Sequence[str],
    tokens: Sequence[str],
    *,
    scale: Scale = "linear",
    limit: float | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw terms × source tokens; above, the total of each token; on the right, the total of each term.

    Args:
        by_source: Contribution of each term from each token; NaN without a source token.
        values: Total of each term.
        terms: Labels of the terms, from the top.
        tokens: Token strings, one per source.
        scale: Colour scale.
        limit: The value at the end of the colours; by default the largest cell.
        theme: LIGHT or DARK.
    """
    labels, rows = token_labels(tokens), [literal(term) for term in terms]
    below = label_pixels(labels)
    height = _BARS + _GAP + _ROW * len(rows)
    figure = make_subplots(
        rows=2,
        cols=2,
        row_heights=[_BARS / height, 1 - _BARS / height],
        column_widths=[0.8, 0.2],
        vertical_spacing=_GAP / height,
        horizontal_spacing=0.012,
        specs=[[{}, None], [{}, {}]],
    )
    if limit is None and np.isfinite(by_source).any():
        limit = float(np.nanmax(np.abs(by_source))) or None
    _add_totals(figure, by_source, values, labels, rows)
    paint(
        figure,
        by_source.astype(np.float32),
        hover="%{y}<br>%{x}<br>%{customdata:.4g}",
        signed=True,
        scale=scale,
        limit=limit,
        axes=("x2", "y2"),
        bar=False,
    )
    figure.update_layout(
        template=template(theme),
        height=height + below + 48,
        showlegend=False,
        bargap=0.15,
        margin={"l": label_pixels(rows) + 8, "r": 24, "t": 28, "b": below + 20},
    )
    figure.update_layout(_axes(labels, rows))
    return figure


def _add_totals(
    figure: go.Figure,
    by_source: Float[np.ndarray, "term source"],
    values: Float[np.ndarray, " term"],
    labels: list[str],
    rows: list[str],
) -> None:
    """Add the bars: the total of each token above, the total of each term on the right."""
    over_text = np.nansum(by_source, axis=0)
    figure.add_bar(
        x=labels,
        y=over_text,
        marker={"color": _colours(over_text)},
        hovertemplate="%{x}<br>%{y:.4g}<extra>all terms</extra>",
        row=1,
        col=1,
    )
    figure.add_bar(
        x=values,
        y=rows,
        orientation="h",
        marker={"color": _colours(values)},
        hovertemplate="%{y}<br>%{x:.4g}<extra>total of the term</extra>",
        row=2,
        col=2,
    )


def _axes(labels: list[str], rows: list[str]) -> dict[str, Spec]:
    """Return the axes of the three panels; the bars share those of the cells."""
    every = max(1, -(-len(labels) // _LABELS))
    ticks = [(at, labels[at]) for at in range(0, len(labels), every)]
    tokens = labelled_axis(labels, "source token", ticks)
    terms = labelled_axis(rows, "", list(enumerate(rows)), down=True)
    return {
        "xaxis": tokens | {"showticklabels": False, "title": None, "matches": "x2"},
        "xaxis2": tokens | {"automargin": False, "tickangle": -90},
        "xaxis3": {"title": {"text": "total"}, "zeroline": True, "nticks": 4},
        "yaxis": {"title": {"text": "logit"}, "zeroline": True},
        "yaxis2": terms | {"automargin": False},
        "yaxis3": terms | {"showticklabels": False, "matches": "y2"},
    }


def _colours(values: Float[np.ndarray, " bar"]) -> list[str]:
    """Colour bars by sign with the ends of the signed scale."""
    ends = ["rgb({},{},{})".format(*colour) for _, colour in (SIGNED[-1], SIGNED[0])]
    return [ends[int(value < 0)] for value in values]
