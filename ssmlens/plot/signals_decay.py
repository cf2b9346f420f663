"""Figures of decay: half-lives by state or head, and the rates behind them (|A|; delta rule: −log α)."""

import math

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from ssmlens.plot.theme import LIGHT, Theme, template

_MARGIN = {"l": 8, "r": 12, "t": 24, "b": 44}
_BANDS = ((5, 95, 0.16), (25, 75, 0.28))  # percentiles over heads, opacity


def half_lives_figure(
    half_lives: Float[np.ndarray, "head state"], tokens: int, *, theme: Theme = LIGHT
) -> go.Figure:
    """Draw half-lives in tokens: percentiles over heads for each state, or a point per head if each has one decay.

    Args:
        half_lives: ln 2 / (|A| · mean Δ), or ln 2 / mean(−log α); values that are not finite are left out.
        tokens: Length of the prompt, drawn as a line: a state above it still holds the first token at the end.
        theme: LIGHT or DARK.
    """
    values = np.where(np.isfinite(half_lives) & (half_lives > 0), half_lives, np.nan)
    one_decay = values.shape[1] == 1
    figure = _by_head(values[:, 0], theme) if one_decay else _by_state(values, theme)
    figure.add_hline(y=tokens, line={"color": theme.muted, "width": 1, "dash": "dot"})
    figure.add_annotation(
        **{"x": 1, "xref": "paper", "xanchor": "right", "y": float(np.log10(tokens))},
        **{"yanchor": "top", "text": f"prompt: {tokens} tokens", "showarrow": False},
        font={"size": 11, "color": theme.muted},
    )
    figure.update_layout(
        template=template(theme),
        margin=_MARGIN,
        legend={"y": 1.0, "yanchor": "bottom"},
        xaxis={
            "title": {"text": "head" if one_decay else "state"},
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={
            "title": {"text": "half-life (tokens)", "standoff": 6},
            "type": "log",
            "dtick": max(1, math.ceil(_decades_of(values) / 7)),
            "exponentformat": "power",
            "tickfont": {"size": 10},  # plotly writes powers larger by a quarter
            "automargin": True,
        },
    )
    return figure


def rates_figure(
    edges: Float[np.ndarray, " edge"],
    counts: Int[np.ndarray, " bin"],
    of_what: str,
    *,
    symbol: str = "|A|",
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw the histogram of the rates on a log axis.

    Args:
        edges: Edges of the bins, in log10 of the rate.
        counts: Number of values in each bin.
        of_what: What has one rate: "head and state".
        symbol: The rate: "|A|" or "−log α".
        theme: LIGHT or DARK.
    """
    low, high = 10.0 ** edges[:-1], 10.0 ** edges[1:]
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=np.diff(edges),
            marker={"color": theme.accent, "line": {"width": 0}},
            customdata=np.stack([low, high], axis=1),
            hovertemplate=symbol
            + " %{customdata[0]:.3g} to %{customdata[1]:.3g}<br>%{y}<extra></extra>",
        )
    )
    marks = _ticks(float(edges[0]), float(edges[-1]))
    figure.update_layout(
        template=template(theme),
        margin=_MARGIN | {"t": 12},
        bargap=0,
        xaxis={
            "title": {"text": symbol},
            "range": [edges[0], edges[-1]],
            "tickvals": [at for at, _ in marks],
            "ticktext": [text for _, text in marks],
            "showgrid": False,
        },
        yaxis={
            "title": {"text": f"count ({of_what})", "standoff": 6},
            "rangemode": "tozero",
            "dtick": 1 if counts.max(initial=0) <= 5 else None,
            "automargin": True,
        },
    )
    return figure


def _by_state(values: Float[np.ndarray, "head state"], theme: Theme) -> go.Figure:
    figure = go.Figure()
    states = np.arange(values.shape[1])
    known = np.isfinite(values).any(0)
    states, values = states[known], values[:, known]
    if not states.size:
        return figure
    for low, high, opacity in _BANDS:
        below, above = np.nanpercentile(values, (low, high), axis=0)
        figure.add_scatter(
            x=np.concatenate([states, states[::-1]]),
            y=np.concatenate([above, below[::-1]]),
            fill="toself",
            fillcolor=theme.accent,
            opacity=opacity,
            mode="lines",
            line={"width": 0},
            name=f"{low}–{high} %",
            hoverinfo="skip",
        )
    middle = np.nanpercentile(values, (5, 25, 50, 75, 95), axis=0)
    figure.add_scatter(
        x=states,
        y=middle[2],
        mode="lines+markers",
        marker={"size": 4},
        line={"color": theme.accent, "width": 1.5},
        name="median head",
        customdata=middle.T,
        hovertemplate="state %{x}<br>median %{y:.3~g} tokens<br>half of the heads %{customdata[1]:.3~g} to "
        "%{customdata[3]:.3~g}<br>nine in ten %{customdata[0]:.3~g} to %{customdata[4]:.3~g}<extra></extra>",
    )
    return figure


def _by_head(values: Float[np.ndarray, " head"], theme: Theme) -> go.Figure:
    return go.Figure(
        go.Scatter(
            x=np.arange(len(values)),
            y=values,
            mode="markers",
            marker={"size": 6, "color": theme.accent},
            hovertemplate="head %{x}<br>%{y:.3~g} tokens<extra></extra>",
            showlegend=False,
        )
    )


def _decades_of(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.log10(known.max() / known.min())) if known.size else 1.0


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Place ticks on a log axis: 1, 2 and 5 in each decade, fewer over many decades."""
    decades = range(math.floor(low) - 1, math.ceil(high) + 1)
    if high - low < 3:
        marks = [(math.log10(m) + k, f"{m * 10.0**k:.3g}") for k in decades for m in (1, 2, 5)]
    else:
        every = math.ceil((high - low) / 7)
        marks = [(float(k), f"10<sup>{k}</sup>") for k in decades if k % every == 0]
    return [mark for mark in marks if low <= mark[0] <= high]
