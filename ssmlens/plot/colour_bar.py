"""The colour bar of an image: plotly does not know an image's colours."""

from typing import Any

from ssmlens.plot.theme import SIGNED, UNIT, colorscale


def colour_bar(
    ticks: tuple[tuple[float, ...], tuple[str, ...]],
    *,
    signed: bool,
    axes: tuple[str, str] = ("x", "y"),
    length: float = 0.6,
) -> dict[str, Any]:
    """Make a trace that draws only a colour bar.

    Args:
        ticks: Positions on the scale and their texts (`scales.Coloured.ticks`).
        signed: True for a diverging scale over [-1, 1], False for one over [0, 1].
        axes: The axes of a subplot.
        length: Share of the subplot's height.
    """
    marker = {
        "color": [0],
        "cmin": -1 if signed else 0,
        "cmax": 1,
        "colorscale": colorscale(SIGNED if signed else UNIT),
        "showscale": True,
        "colorbar": {
            "tickvals": ticks[0],
            "ticktext": ticks[1],
            "thickness": 10,
            "len": length,
            "tickfont": {"size": 11},
            "ticklabeloverflow": "allow",  # as in `theme.plain_template`
            "outlinewidth": 0,
            "xpad": 8,
        },
    }
    return {
        **{"type": "scatter", "mode": "markers", "x": [None], "y": [None], "marker": marker},
        **{"xaxis": axes[0], "yaxis": axes[1], "showlegend": False, "hoverinfo": "skip"},
    }
