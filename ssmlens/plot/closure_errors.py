"""Closure errors: the distance of each layer's recomputation from what the layer computed."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plot.labels import literal
from ssmlens.plot.theme import LIGHT, Theme, template
from ssmlens.store.verdict import Verdict

FLOOR = 1e-9
"""The height of an error of 0 on the logarithmic axis."""


def closure_figure(verdicts: Mapping[int, Verdict], *, theme: Theme = LIGHT) -> go.Figure:
    """Draw the errors of each layer on a log axis, with their tolerances.

    A disc is an error within tolerance, a cross one beyond it. An error that is not finite is a cross at the top.

    Args:
        verdicts: The verdict of each layer (`Layer.verdict`) by its number. A tolerance of 0 has no line, as a log axis
            has no 0.
        theme: LIGHT or DARK.
    """
    layers = list(verdicts)
    tolerance = {n: limit for v in verdicts.values() for n, limit in v.tolerances.items()}
    errors = {
        name: np.array([v.errors.get(name, np.nan) for v in verdicts.values()])
        for name in tolerance
    }
    known = [e[np.isfinite(e)] for e in errors.values()]
    ceiling = 10 * max(
        (float(v) for part in (*known, list(tolerance.values())) for v in part), default=1.0
    )
    figure = go.Figure()
    for name, error in errors.items():
        has = np.array([name in v.errors for v in verdicts.values()])
        with_error = [layer for layer, present in zip(layers, has, strict=True) if present]
        figure.add_trace(_marks(name, with_error, error[has], tolerance[name], ceiling))
    _draw_tolerances(figure, tolerance, theme)
    figure.update_layout(
        template=template(theme),
        height=260,
        xaxis={"title": {"text": "layer"}, "dtick": max(1, len(layers) // 24), "zeroline": False},
        yaxis={
            "title": {"text": "relative error"},
            "type": "log",
            "exponentformat": "power",
            "dtick": 2,
        },
    )
    return figure


def _marks(
    name: str,
    layers: Sequence[int],
    error: Float[np.ndarray, " layer"],
    tolerance: float,
    ceiling: float,
) -> go.Scatter:
    """Draw one kind of error."""
    within = error <= tolerance
    return go.Scatter(
        x=list(layers),
        y=np.clip(np.where(np.isfinite(error), error, ceiling), FLOOR, ceiling),
        name=literal(name),
        mode="markers",
        marker={
            "size": np.where(within, 9, 12),
            "symbol": np.where(within, "circle", "x").tolist(),
        },
        customdata=[f"{v:.3g}" for v in error],
        hovertemplate=f"layer %{{x}}<br>{literal(name)}  %{{customdata}}<extra></extra>",
    )


def _draw_tolerances(figure: go.Figure, tolerance: Mapping[str, float], theme: Theme) -> None:
    """Draw a line at each tolerance, labelled with its errors."""
    for limit in sorted({limit for limit in tolerance.values() if limit > 0}):
        names = ", ".join(literal(n) for n in tolerance if tolerance[n] == limit)
        figure.add_hline(y=limit, line={"color": theme.failed, "width": 1, "dash": "dash"})
        figure.add_annotation(
            text=f"tolerance {limit:g}: {names}",
            font={"size": 11, "color": theme.failed},
            **{"x": 1, "xref": "paper", "xanchor": "right"},
            **{"y": float(np.log10(limit)), "yanchor": "bottom", "showarrow": False},
        )
