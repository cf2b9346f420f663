"""The table of scores: every layer, every score."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plot.labels import literal
from ssmlens.plot.theme import LIGHT, ORDER, Theme, colorscale, template
from ssmlens.scores import SCORES

_WRITTEN = 16  # layers up to which the values are written in the cells


def score_heatmap(
    values: Float[np.ndarray, "score layer"],
    scores: Sequence[str],
    layers: Sequence[int] | Sequence[str],
    *,
    what: str = "layer",
    chance: Mapping[str, str] | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw scores × layers: colour compares layers within one score, text is the true value.

    The strongest colour is the layer that the score puts first: of an effect, the most negative.

    Args:
        values: A value for each score and layer; NaN is an empty cell.
        scores: Names of the rows.
        layers: Block indices, or names of heads: the columns.
        what: What a column is, "layer" or "head".
        chance: What scores are by chance, for those that have such a level; shown when a cell is pointed at.
        theme: LIGHT or DARK.
    """
    rows = [literal(name) for name in scores]
    columns = [str(layer) for layer in layers]
    beside = [
        f"<br>{literal(chance[n])} by chance" if chance and n in chance else "" for n in scores
    ]
    figure = go.Figure(
        go.Heatmap(
            z=_within_rows(values * np.array([[_sign(name)] for name in scores])),
            x=columns,
            y=rows,
            text=[[_number(v) for v in row] for row in values],
            customdata=[[text] * len(columns) for text in beside],
            texttemplate="%{text}" if len(layers) <= _WRITTEN else None,
            textfont={"size": 12, "color": theme.ink},
            zmin=0,
            zmax=1,
            colorscale=colorscale(ORDER),
            showscale=False,
            xgap=2,
            ygap=2,
            hoverongaps=False,
            hovertemplate=f"{what} %{{x}}<br>%{{y}}<br>%{{text}}%{{customdata}}<extra></extra>",
        )
    )
    figure.update_layout(
        template=template(theme),
        height=72 + 30 * max(len(rows), 1),
        margin={"l": 170, "r": 16, "t": 12, "b": 52},
        xaxis={"title": {"text": what}, "type": "category", "showgrid": False},
        yaxis={"type": "category", "autorange": "reversed", "showgrid": False, "ticks": ""},
    )
    return figure


def _within_rows(values: np.ndarray) -> np.ndarray:
    """Each row from 0 (its least) to 1 (its most); a row of equal values is 0.5."""
    scaled = np.full(values.shape, np.nan)
    for row, out in zip(values, scaled, strict=True):
        finite = np.isfinite(row)
        if finite.any():
            low, high = row[finite].min(), row[finite].max()
            out[finite] = (row[finite] - low) / (high - low) if high > low else 0.5
    return scaled


def _sign(score: str) -> int:
    return -1 if score in SCORES and not SCORES[score].higher_is_attention else 1


def _number(value: float) -> str:
    return "—" if np.isnan(value) else f"{value:.3g}".replace("-", "−")
