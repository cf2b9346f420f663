"""Panels of the students' accuracy against the scores of the teacher's layers, at several lengths."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from ssmlens.plot.labels import literal
from ssmlens.plot.theme import LIGHT, Theme, template
from ssmlens.plot.training_curves import arm_name
from ssmlens.runs.rank_statistics import correlation
from ssmlens.runs.students import LayerStudents

_PANEL, _LEFT, _TOP, _BOTTOM = (276, 220), 84, 56, 52  # pixels
_GAP = 26
_SYMBOLS = ("circle", "diamond-open", "square-open", "triangle-up-open")
_DASHES = ("dash", "dot", "dashdot")


def transplant_panels(
    arms: Sequence[LayerStudents],
    references: Mapping[str, Mapping[int, Float[np.ndarray, " 3"]]],
    scores: Sequence[str],
    lengths: Sequence[int],
    measured: str,
    *,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw one row of panels per length and one column per score; a point is a student, its bar spans the seeds.

    Above each panel is each arm's Spearman rank correlation over layers. A reference is a line, with the range of its
    seeds as a band. The figure sets its background and size.

    Args:
        arms: Students with a teacher.
        references: Arms without a teacher, by name: mean, least and most by length; NaN if not measured.
        scores: Names of the scores.
        lengths: Evaluation lengths.
        measured: Name of the measure, such as "characters right".
        theme: LIGHT or DARK.
    """
    figure = make_subplots(
        len(lengths),
        len(scores),
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=_GAP / (_PANEL[0] * len(scores)),
        vertical_spacing=_GAP / (_PANEL[1] * len(lengths)),
    )
    for (row, length), (column, score) in itertools.product(
        enumerate(lengths, 1), enumerate(scores, 1)
    ):
        panel: dict[str, Any] = {"row": row, "col": column}
        named = row == column == 1  # only the first panel adds names to the legend
        for number, arm in enumerate(arms):
            figure.add_trace(_points(arm, number, score, length, theme, named), **panel)
        _draw_references(figure, panel, references, length, named, theme)
        figure.add_annotation(
            text=_correlations(arms, score, length),
            font={"size": 11, "color": theme.muted},
            **{"x": 0, "xref": "x domain", "xanchor": "left", "showarrow": False},
            **{"y": 1, "yref": "y domain", "yanchor": "bottom"},
            **panel,
        )
    figure.update_layout(
        template=template(theme),
        paper_bgcolor=theme.surface,
        width=_LEFT + _PANEL[0] * len(scores) + 24,
        height=_TOP + _PANEL[1] * len(lengths) + _BOTTOM,
        margin={"l": _LEFT, "r": 24, "t": _TOP, "b": _BOTTOM},
        legend={"y": 1, "yref": "container", "yanchor": "top", "orientation": "h"},
    )
    _name_axes(figure, scores, lengths, measured)
    return figure


def _name_axes(
    figure: go.Figure, scores: Sequence[str], lengths: Sequence[int], measured: str
) -> None:
    """Write the measure to the left of each row, and the score below each column."""
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%", zeroline=False)
    for row, length in enumerate(lengths, 1):
        title = f"{literal(measured)}<br>at length {length}"
        figure.update_yaxes(title={"text": title}, row=row, col=1)
    for column, score in enumerate(scores, 1):
        figure.update_xaxes(title={"text": literal(score)}, row=len(lengths), col=column)


def _points(
    arm: LayerStudents,
    number: int,
    score: str,
    length: int,
    theme: Theme,
    in_legend: bool,
) -> go.Scatter:
    """Draw an arm in a panel, with its own symbol and colour; the first arm has layer numbers."""
    mean, low, high = arm.accuracy[length].T
    name, colour = arm_name(arm.arm), theme.lines[number % len(theme.lines)]
    return go.Scatter(
        x=arm.scores[score],
        y=mean,
        error_y={
            **{"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low},
            **{"color": colour, "thickness": 1.2, "width": 3},
        },
        customdata=np.stack([low, high], axis=1),
        text=[str(layer) for layer in arm.layer],
        mode="markers+text" if number == 0 else "markers",
        textposition="middle right",
        textfont={"size": 11, "color": theme.muted},
        marker={
            "size": 9,
            "color": colour,
            "symbol": _SYMBOLS[number % len(_SYMBOLS)],
            "line": {"width": 1.5, "color": colour},
        },
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        cliponaxis=False,
        hovertemplate=f"{name}, teacher layer %{{text}}<br>{literal(score)} %{{x:.4g}}<br>"
        "%{y:.1%}, seeds %{customdata[0]:.1%} to %{customdata[1]:.1%}<extra></extra>",
    )


def _draw_references(
    figure: go.Figure,
    panel: dict[str, Any],
    references: Mapping[str, Mapping[int, Float[np.ndarray, " 3"]]],
    length: int,
    named: bool,
    theme: Theme,
) -> None:
    """Draw the arms without a teacher as lines across a panel."""
    for number, (name, by_length) in enumerate(references.items()):
        dash = _DASHES[number % len(_DASHES)]
        line = {"width": 1.5, "dash": dash, "color": _grey_first(number, theme)}
        key = go.Scatter(x=[None], y=[None], mode="lines", line=line, name=arm_name(name))
        figure.add_trace(key.update(showlegend=named), **panel)
        _draw_reference(figure, panel, by_length[length], line)


def _draw_reference(
    figure: go.Figure, panel: dict[str, Any], over_seeds: np.ndarray, line: dict[str, Any]
) -> None:
    """Draw a reference across a panel: its mean, and the range of its seeds as a band; nothing for NaN."""
    mean, low, high = (float(value) for value in over_seeds)
    if math.isnan(mean):
        return
    if high > low:
        band = {"fillcolor": line["color"], "opacity": 0.12, "line_width": 0, "layer": "below"}
        figure.add_hrect(y0=low, y1=high, **band, **panel)
    figure.add_hline(y=mean, line=line, **panel)


def _grey_first(number: int, theme: Theme) -> str:
    """Return the colour of a reference: grey first, then colours that the first two arms do not have."""
    return theme.muted if number == 0 else theme.lines[(number + 1) % len(theme.lines)]


def _correlations(arms: Sequence[LayerStudents], score: str, length: int) -> str:
    values = [correlation(arm.scores[score], arm.accuracy[length][:, 0]) for arm in arms]
    texts = [f"{arm_name(a.arm)} {r:+.2f}" for a, r in zip(arms, values, strict=True) if r == r]
    return f"rank corr.: {', '.join(texts)}".replace("-", "−") if texts else ""
