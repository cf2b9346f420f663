"""Every score of the teacher's layers against what their students learn, at several lengths: a panel each."""

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
    """Draw a row of panels a length and a column a score; a point is a student, its bar spans the seeds.

    Above each panel stands Spearman's rank correlation over layers of each arm. References are lines, the span of
    their seeds as a band. The figure has a background and a size of its own.

    Args:
        arms: Students with a teacher.
        references: Arms without one, by name: mean, least and most by length, NaN where nothing was measured.
        scores: Names of the scores.
        lengths: Lengths that accuracy was measured at.
        measured: What was, such as "characters right".
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
        named = row == column == 1  # the legend takes its names from the first panel
        for number, arm in enumerate(arms):
            figure.add_trace(_points(arm, number, score, length, theme, named), **panel)
        _draw_references(figure, panel, references, length, named, theme)
        figure.add_annotation(
            text=_together(arms, score, length),
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
    """Say what is measured left of each row, and the score below each column."""
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
    shown: bool,
) -> go.Scatter:
    """An arm in a panel: symbols besides colours tell arms apart, numbers tell the first one's layers."""
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
        showlegend=shown,
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
    """The arms without a teacher in a panel, lines across it."""
    for number, (name, by_length) in enumerate(references.items()):
        dash = _DASHES[number % len(_DASHES)]
        line = {"width": 1.5, "dash": dash, "color": _grey_first(number, theme)}
        key = go.Scatter(x=[None], y=[None], mode="lines", line=line, name=arm_name(name))
        figure.add_trace(key.update(showlegend=named), **panel)
        _lay(figure, panel, by_length[length], line)


def _lay(
    figure: go.Figure, panel: dict[str, Any], over_seeds: np.ndarray, line: dict[str, Any]
) -> None:
    """A reference in a panel: its mean across it, a band from the least to the most of its seeds; nothing for NaN."""
    mean, low, high = (float(value) for value in over_seeds)
    if math.isnan(mean):
        return
    if high > low:
        band = {"fillcolor": line["color"], "opacity": 0.12, "line_width": 0, "layer": "below"}
        figure.add_hrect(y0=low, y1=high, **band, **panel)
    figure.add_hline(y=mean, line=line, **panel)


def _grey_first(number: int, theme: Theme) -> str:
    """The colour of a reference: grey, then those that the first two arms of students do not have."""
    return theme.muted if number == 0 else theme.lines[(number + 1) % len(theme.lines)]


def _together(arms: Sequence[LayerStudents], score: str, length: int) -> str:
    found = [correlation(arm.scores[score], arm.accuracy[length][:, 0]) for arm in arms]
    told = [f"{arm_name(a.arm)} {r:+.2f}" for a, r in zip(arms, found, strict=True) if r == r]
    return f"rank corr.: {', '.join(told)}".replace("-", "−") if told else ""
