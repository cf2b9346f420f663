"""Does a layer's score foretell how well a student does that starts as this layer?"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from ssmlens.plots.labels import literal
from ssmlens.plots.theme import LIGHT, Theme, template
from ssmlens.plots.training_curves import arm_line, arm_name, legend


@dataclasses.dataclass(frozen=True)
class Students:
    """Students of one arm at one length: a point a teacher layer.

    Attributes:
        arm: "transplant", or its control.
        length: The length that they were evaluated at.
        style: The arm's number (`training_curves.arm_line`).
        filled: Whether its marks are filled; hollow ones tell another length apart.
        layer: The teacher's layers.
        score: The teacher layers' scores, from before any training.
        accuracy: Of their students: mean over seeds.
    """

    arm: str
    length: int
    style: int
    filled: bool
    layer: Int[np.ndarray, " layer"]
    score: Float[np.ndarray, " layer"]
    accuracy: Float[np.ndarray, " layer"]


def transplant_figure(
    students: Sequence[Students],
    references: dict[str, tuple[int, float]],
    score_name: str,
    y_title: str,
    *,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw students' accuracies over their teacher layers' scores, with the arms that have no teacher as lines.

    Args:
        students: The points.
        references: The arms without a teacher: style and accuracy.
        score_name: Name of the score along x.
        y_title: What is measured.
        theme: LIGHT or DARK.
    """
    figure = go.Figure()
    for place, group in enumerate(students):
        name = f"{arm_name(group.arm)}, length {group.length}"
        together = rank_correlation(group.score, group.accuracy)
        told = "" if np.isnan(together) else f" (rank correlation {together:+.2f})"
        colour = arm_line(group.style, theme)["color"]
        figure.add_trace(
            go.Scatter(
                x=group.score,
                y=group.accuracy,
                text=[str(layer) for layer in group.layer],
                name=name + told,
                mode="markers+text" if place == 0 else "markers",
                textposition="top center",
                textfont={"size": 11, "color": theme.muted},
                marker={
                    "size": 9,
                    "color": colour,
                    "symbol": "circle" if group.filled else "circle-open",
                    "line": {"width": 1.5, "color": colour},
                },
                cliponaxis=False,
                hovertemplate=f"teacher layer %{{text}}<br>{literal(score_name)} %{{x:.4g}}<br>"
                f"{name}: %{{y:.1%}}<extra></extra>",
            )
        )
    for place, (arm, (style, accuracy)) in enumerate(references.items()):
        figure.add_hline(
            y=accuracy,
            line={"width": 1.5, **arm_line(style, theme)},
            annotation_position=("top right", "top left")[place % 2],  # two may lie close
            annotation={
                "text": arm_name(arm),
                "font": {"size": 11, "color": theme.muted},
            },
        )
    figure.update_layout(
        template=template(theme),
        margin={"l": 60, "r": 12, "t": 8, "b": 44},
        xaxis={"title": {"text": f"{literal(score_name)} of the teacher layer"}, "zeroline": False},
        yaxis={
            "title": {"text": y_title},
            "range": [-0.03, 1.08],
            "tickformat": ".0%",
            "zeroline": False,
        },
        legend=legend(len(students)),
        showlegend=bool(students),
    )
    return figure


def rank_correlation(a: Float[np.ndarray, " layer"], b: Float[np.ndarray, " layer"]) -> float:
    """Spearman's rank correlation over the pairs that are finite; ties share their mean rank; NaN below three pairs."""
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3:
        return float("nan")
    ranks = np.stack([_ranks(a[both]), _ranks(b[both])])
    if (ranks.std(axis=1) == 0).any():
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place]
