"""Draw each arm's difference from its base at each length: a dot and its interval."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.components.conv_arms import BASES
from analyses.components.conv_verdicts import MATTERS, ArmEffect
from ssmlens.plot.theme import LIGHT, template

_PANEL, _ROW, _LEFT, _TOP, _BOTTOM = 230, 26, 200, 40, 52  # pixels


def effects_figure(by_length: Mapping[int, Mapping[str, ArmEffect]]) -> go.Figure:
    """One panel per length. Bars are the shifts that the exact test does not reject. Too small effects are in grey.

    Args:
        by_length: Effects on characters, some at each length.
    """
    lengths = list(by_length)
    titles = [f"{length} letters" for length in lengths]
    figure = make_subplots(
        1, len(lengths), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=titles
    )
    for column, length in enumerate(lengths, 1):
        effects = [it for arm in BASES if (it := by_length[length].get(arm)) is not None]
        means = [it.difference.mean for it in effects]
        least, most = zip(*(it.difference.interval for it in effects), strict=True)
        here: dict[str, Any] = {"row": 1, "col": column}
        figure.add_trace(
            go.Scatter(
                x=means,
                y=[f"{it.arm} less {BASES[it.arm]}" for it in effects],
                error_x={
                    "array": [high - mean for high, mean in zip(most, means, strict=True)],
                    "arrayminus": [mean - low for low, mean in zip(least, means, strict=True)],
                },
                mode="markers",
                marker={"size": 8, "color": LIGHT.lines[0]},
                showlegend=False,
            ),
            **here,
        )
        figure.add_vrect(
            -MATTERS, MATTERS, fillcolor=LIGHT.line, line_width=0, layer="below", **here
        )
    figure.update_yaxes(autorange="reversed", col=1)
    figure.update_xaxes(title_text="characters right, less the base's", matches="x")
    figure.update_layout(
        template=template(),
        paper_bgcolor=LIGHT.surface,
        width=_LEFT + _PANEL * len(lengths),
        height=_TOP + _ROW * len(BASES) + _BOTTOM,
        margin={"l": _LEFT, "t": _TOP, "b": _BOTTOM, "r": 24},
    )
    return figure
