"""The kernels of a layer's convolution, channel by channel, for x, B and C."""

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ssmlens.plot.cells import labelled_axis, paint, runs, shrink_means
from ssmlens.plot.scales import robust_limit
from ssmlens.plot.theme import LIGHT, Theme, template

ROWS = 320
"""Most rows of channels; beyond that neighbours share a row."""


def kernels_figure(
    kernels: Mapping[str, Float[np.ndarray, "channel tap"]], *, theme: Theme = LIGHT
) -> go.Figure:
    """Draw the kernels of x, B and C: taps to the right, channels down, similar ones side by side.

    Args:
        kernels: Taps by part ("x", "B", "C"), the current token first; at least one part.
        theme: LIGHT or DARK.
    """
    figure = go.Figure()
    limit = robust_limit(np.concatenate([k.ravel() for k in kernels.values()]))
    width = 1 / len(kernels)
    for place, (part, taps) in enumerate(kernels.items()):
        suffix = "" if place == 0 else str(place + 1)
        several = math.ceil(len(taps) / ROWS)
        cells = shrink_means(taps[_by_similarity(taps)], several, 1)
        paint(
            figure,
            cells,
            hover=f"{part}, tap %{{x}} back<br>channels ranked %{{y}}<br>weight %{{customdata:.3g}}",
            signed=True,
            limit=limit,
            axes=(f"x{suffix}", f"y{suffix}"),
            bar=place == 0,
        )
        backs = _backs(taps.shape[1])
        title = "channels, similar ones together" if place == 0 else ""
        ranked = labelled_axis(runs(0, len(taps), several), title, [], down=True)
        figure.update_layout(
            {
                f"xaxis{suffix}": {
                    **labelled_axis(
                        backs,
                        f"{part}: tokens back" if place == 0 else part,
                        list(enumerate(backs)),
                    ),
                    **{"domain": [(place + 0.06) * width, (place + 0.94) * width]},
                    **{"anchor": f"y{suffix}", "fixedrange": True},
                },
                f"yaxis{suffix}": {
                    **ranked,
                    **{"anchor": f"x{suffix}", "fixedrange": True},
                },
            }
        )
    figure.update_layout(template=template(theme), margin={"l": 8, "r": 8, "t": 8, "b": 8})
    return figure


def tap_energy_figure(
    kernels: Mapping[str, Float[np.ndarray, "channel tap"]], *, theme: Theme = LIGHT
) -> go.Figure:
    """Draw how far back the kernels of x, B and C reach: each tap's share of their energy, Σ κ[tap]² / Σ κ².

    Args:
        kernels: Taps by part ("x", "B", "C"), the current token first.
        theme: LIGHT or DARK.
    """
    figure = go.Figure()
    for part, taps in kernels.items():
        energy = np.square(taps.astype(np.float64)).sum(0)
        figure.add_bar(
            x=_backs(taps.shape[1]),
            y=energy / (energy.sum() or 1.0),
            name=part,
            hovertemplate=f"{part}, %{{x}} tokens back<br>%{{y:.1%}} of the energy<extra></extra>",
        )
    figure.update_layout(
        template=template(theme),
        margin={"l": 8, "r": 12, "t": 24, "b": 40},
        legend={"y": 1.0, "yanchor": "bottom"},
        showlegend=True,
        xaxis={"title": {"text": "tokens back"}, "type": "category", "showgrid": False},
        yaxis={
            "title": {"text": "share of energy", "standoff": 6},
            "tickformat": ".0%",
            "automargin": True,
        },
    )
    return figure


def _backs(taps: int) -> list[str]:
    return [str(back) for back in range(taps)]


def _by_similarity(taps: Float[np.ndarray, "channel tap"]) -> np.ndarray:
    """Order channels by the tap of largest magnitude and its value, so that similar kernels form bands."""
    largest = np.abs(taps).argmax(1)
    return np.lexsort((-taps[np.arange(len(taps)), largest], largest))
