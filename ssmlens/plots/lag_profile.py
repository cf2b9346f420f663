"""How much of a map lies how far back: the profile that `diagonal_sharpness` reads."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plots.theme import LIGHT, Theme, template


def lag_profile(
    energy: Float[np.ndarray, " lag"], first_lag: int = 1, *, theme: Theme = LIGHT
) -> go.Figure:
    """Draw the energy of each sub-diagonal as its share of the whole, and name the sharpest lag.

    Args:
        energy: e(ℓ) = mean_i map[i, i−ℓ]² (`ssmlens.scores.diagonal.lag_energy`).
        first_lag: Lags below it are shaded: `diagonal_sharpness` leaves them to the convolution.
        theme: LIGHT or DARK.
    """
    total = float(energy.sum())
    share = energy / total if total > 0 else np.zeros_like(energy)
    figure = go.Figure(
        go.Scatter(
            x=np.arange(len(energy)),
            y=share,
            mode="lines",
            line={"shape": "hvh", "width": 1.5, "color": theme.accent},
            fill="tozeroy",
            hovertemplate="%{x} tokens back<br>%{y:.2%} of the energy<extra></extra>",
        )
    )
    figure.update_layout(
        template=template(theme),
        xaxis={"title": {"text": "tokens back (lag)"}, "rangemode": "nonnegative"},
        yaxis={"title": {"text": "share of energy"}, "tickformat": ".0%", "rangemode": "tozero"},
    )
    figure.add_vrect(x0=-0.5, x1=first_lag - 0.5, fillcolor=theme.muted, opacity=0.12, line_width=0)
    if total > 0 and len(energy) > first_lag:
        sharpest = first_lag + int(np.argmax(share[first_lag:]))
        figure.add_annotation(
            x=sharpest,
            y=float(share[sharpest]),
            text=f"{sharpest} back",
            showarrow=False,
            yshift=10,
        )
    return figure
