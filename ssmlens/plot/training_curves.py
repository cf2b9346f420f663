"""Curves of training runs: the mean over seeds as a line, their range as a band, one colour per arm."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ssmlens.plot.labels import literal, visible
from ssmlens.plot.theme import LIGHT, Theme, template
from ssmlens.runs.curves import Curve

_DASHES = ("solid", "dash", "dot")
_SHOWN = 40  # characters of an arm's name
_OPACITY = 0.16
_ABOVE = 4  # names


def training_curves(
    curves: Sequence[Curve],
    x_title: str,
    y_title: str,
    *,
    share: bool = False,
    marked: bool = False,
    logarithmic: bool = False,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw curves with their bands.

    Args:
        curves: One curve per arm.
        x_title: Title of the x axis.
        y_title: Name of the measure.
        share: Whether values are shares; the axis then shows all of 0..1.
        marked: Whether to mark each measured point, for few points.
        logarithmic: Whether x is on a logarithmic axis.
        theme: LIGHT or DARK.
    """
    figure = go.Figure()
    for curve in curves:
        figure.add_traces(_band(curve, theme))
    for curve in curves:  # lines above all bands
        figure.add_trace(_line(curve, x_title, share=share, marked=marked, theme=theme))
    places = np.unique(np.concatenate([curve.x for curve in curves])) if curves else np.zeros(0)
    along: dict[str, Any] = {"title": {"text": x_title}, "zeroline": False}
    if logarithmic:
        along |= {"type": "log"}
    if marked and len(places) <= 12:
        along |= {"tickvals": places, "ticktext": [f"{place:g}" for place in places]}
    up: dict[str, Any] = {"title": {"text": y_title}, "zeroline": False}
    if share:
        up |= {"range": [-0.03, 1.03], "tickformat": ".0%"}
    figure.update_layout(
        template=template(theme),
        margin={"l": 60, "r": 12, "t": 8, "b": 44},
        xaxis=along,
        yaxis=up,
        legend=legend(len(curves)),
        showlegend=bool(curves),
    )
    return figure


def arm_line(style: int, theme: Theme = LIGHT) -> dict[str, str]:
    """Return the colour and dash of an arm by its number: five colours, then the same with another dash."""
    colours: Sequence[str] = template(theme).to_plotly_json()["layout"]["colorway"]
    return {
        "color": colours[style % len(colours)],
        "dash": _DASHES[style // len(colours) % len(_DASHES)],
    }


def readable(text: str, longest: int = _SHOWN) -> str:
    """Shorten a name from a file and make invisible characters visible, except spaces."""
    return visible(text, longest).replace("·", " ")


def arm_name(arm: str) -> str:
    """Escape the name of an arm for plotly."""
    return literal(readable(arm))


def legend(entries: int) -> dict[str, Any]:
    """Place the legend above a figure if it has few entries, else to its right."""
    if entries <= _ABOVE:
        return {"y": 1.02, "yanchor": "bottom", "orientation": "h"}
    return {"y": 1, "yanchor": "top", "x": 1.02, "xanchor": "left", "orientation": "v"}


def _line(curve: Curve, x_title: str, *, share: bool, marked: bool, theme: Theme) -> go.Scatter:
    number = ".1%" if share else ".4g"
    name = arm_name(curve.arm)
    return go.Scatter(
        x=_small(curve.x),
        y=_small(curve.mean),
        customdata=_small(np.stack([curve.low, curve.high, curve.runs], axis=1)),
        name=name,
        legendgroup=name,
        mode="lines+markers" if marked or len(curve.x) == 1 else "lines",
        marker={"size": 7},
        line={"width": 2, **arm_line(curve.style, theme)},
        hovertemplate=(
            f"{name}<br>{x_title} %{{x}}<br>mean %{{y:{number}}}<br>"
            f"from %{{customdata[0]:{number}}} to %{{customdata[1]:{number}}}, runs: %{{customdata[2]}}<extra></extra>"
        ),
    )


def _band(curve: Curve, theme: Theme) -> list[go.Scatter]:
    """Draw the range over runs; nothing for a single run."""
    if not (curve.runs > 1).any():
        return []
    colour = arm_line(curve.style, theme)["color"].lstrip("#")
    red, green, blue = (int(colour[i : i + 2], 16) for i in (0, 2, 4))
    return [
        go.Scatter(
            x=_small(np.concatenate([curve.x, curve.x[::-1]])),
            y=_small(np.concatenate([curve.high, curve.low[::-1]])),
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},{_OPACITY})",
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            legendgroup=arm_name(curve.arm),
            showlegend=False,
        )
    ]


def _small(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)
