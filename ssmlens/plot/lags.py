"""The lag profile of a map: its energy by distance back, which `diagonal_sharpness` measures."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from ssmlens.plot.packing import rounded
from ssmlens.plot.theme import LIGHT, Spec, Theme, plain_template

_BACK = "tokens back (lag)"


def lag_profile(
    energy: Float[np.ndarray, " lag"],
    first_lag: int = 1,
    ahead: Float[np.ndarray, " _lag"] | None = None,
    *,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Draw each sub-diagonal's share of the energy, and label the sharpest lag.

    Args:
        energy: e(ℓ) = mean_i map[i, i−ℓ]² (`ssmlens.scores.diagonal.lag_energy`).
        first_lag: Shade the lags below it: `diagonal_sharpness` ignores them, as the convolution covers them.
        ahead: mean_i map[i, i+ℓ]² for a layer that looks ahead: drawn on the left, at negative lags.
        theme: LIGHT or DARK.
    """
    return go.Figure(lag_profile_spec(energy, first_lag, ahead, theme=theme))


def lag_profile_spec(
    energy: Float[np.ndarray, " lag"],
    first_lag: int = 1,
    ahead: Float[np.ndarray, " _lag"] | None = None,
    *,
    theme: Theme = LIGHT,
) -> Spec:
    """Return `lag_profile` as plain values."""
    lags, energy = both_ways(energy, ahead)
    total = float(energy.sum())
    share = energy / total if total > 0 else np.zeros_like(energy)
    line = {
        **{"type": "scatter", "mode": "lines", "fill": "tozeroy"},
        **{"x0": int(lags.min(initial=0)), "dx": 1, "y": rounded(share)},
        "line": {"shape": "hvh", "width": 1.5, "color": theme.accent},
        "hovertemplate": "%{x} tokens back<br>%{y:.2%} of the energy<extra></extra>",
    }
    convolution = {
        **{"type": "rect", "xref": "x", "yref": "y domain"},
        **{"x0": -0.5 if ahead is None else 0.5 - first_lag, "x1": first_lag - 0.5},
        **{"y0": 0, "y1": 1},
        **{"fillcolor": theme.muted, "opacity": 0.12, "line": {"width": 0}},
        "label": {
            **{"text": "recency", "textangle": -90, "textposition": "top right"},
            **{"xanchor": "right", "yanchor": "top", "padding": 3},
            "font": {"size": 11, "color": theme.muted},
        },
    }
    layout = {
        "template": plain_template(theme),
        "xaxis": {"title": {"text": _BACK}, "rangemode": "nonnegative"}
        if ahead is None
        else {"title": {"text": f"{_BACK}; negative: ahead"}},
        "yaxis": {"title": {"text": "share of energy"}, "tickformat": ".0%", "rangemode": "tozero"},
        "shapes": [convolution],
    }
    beyond = np.abs(lags) >= first_lag
    if total > 0 and beyond.any():
        at = int(np.argmax(np.where(beyond, share, -1)))
        sharpest = int(lags[at])
        layout["annotations"] = [
            {
                **{"x": sharpest, "y": float(share[at]), "yshift": 10},
                **{"text": f"{abs(sharpest)} {'back' if sharpest >= 0 else 'ahead'}"},
                **{"showarrow": False},
            }
        ]
    return {"data": [line], "layout": layout}


def both_ways(
    energy: Float[np.ndarray, " lag"], ahead: Float[np.ndarray, " _lag"] | None
) -> tuple[Int[np.ndarray, " signed_lag"], Float[np.ndarray, " signed_lag"]]:
    """Return every lag in rising order with its energy; lags ahead are negative.

    Args:
        energy: Energy by lag, from lag 0.
        ahead: Energy above the diagonal, from lag 0, which is dropped: it is in `energy`.
    """
    if ahead is None:
        return np.arange(len(energy)), energy
    joined = np.concatenate([ahead[:0:-1], energy])
    return 1 - len(ahead) + np.arange(len(joined)), joined
