"""Weights: do queries match keys? W_B against W_C (W_k, W_q), the convolution's kernels, the weights of β."""

import math
from typing import Any

import numpy as np
import xarray as xr
from dash import Output, html, no_update
from dash.development.base_component import Component

from ssmlens.plot import layer_figures as figures
from ssmlens.plot import weight_numbers as weights
from ssmlens.plot.scales import SCALES
from ssmlens.plot.words import heading, words
from ssmlens_dashboard.controls import follow, segments
from ssmlens_dashboard.elements import figure_card
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.views.weights import Number, scored_weights

_TALL = "max(290px, 60vh - 183px)"  # both rows on one screen
_LOW = "max(195px, 40vh - 122px)"
_FIGURES = {
    "inputs": _TALL,
    "states": _TALL,
    "kernels": _TALL,
    "input-entries": _LOW,
    "state-entries": _LOW,
    "taps": _LOW,
}


def layout(scene: Scene) -> Component:
    """Build the scores of the weights, then the two products, their entries and the kernels."""
    most = max([1, *(weights.groups(scene.capture.layer(i)) for i in scene.capture.layers)])
    return html.Div(
        [
            html.Div(
                [
                    segments("scale", [(name, name) for name in SCALES]),
                    html.Div(
                        segments("group", [(str(g), f"group {g}") for g in range(most)]),
                        id="weights-group",
                        hidden=most == 1,
                    ),
                    html.Span(id="weights-status", className="muted", role="status"),
                ],
                className="toolbar",
            ),
            html.Div(id="weights-numbers", className="numbers"),
            html.Div(
                [
                    figure_card(f"weights-{name}", title, height=height)
                    for (name, height), title in zip(_FIGURES.items(), titles(scene), strict=True)
                ]
                + [
                    html.Div(
                        figure_card("weights-beta", "W_β: weights of β", height=_LOW),
                        id="weights-of-beta",
                        style={"gridColumn": "1 / -1"},
                    )
                ],
                id="weights-figures",
                className="three-columns",
            ),
        ]
    )


PAGE = Page(name="weights", title="Weights", order=4, layout=layout, data=lambda scene: data(scene))


@PAGE.view(
    *(Output(f"weights-{name}", "figure") for name in _FIGURES),
    Output("weights-figures", "hidden"),
    Output("weights-numbers", "children"),
    Output("weights-status", "children"),
    *(Output(f"weights-{name}-title", "children") for name in _FIGURES),
    Output("weights-beta", "figure"),
    Output("weights-of-beta", "hidden"),
)
def everything(scene: Scene) -> tuple[Any, ...]:
    """Draw the whole page from the address."""
    missing = weights.why_not(scene.layer)
    beta = (
        (no_update, True)
        if weights.why_no_beta(scene.layer)
        else (figures.beta(scene.selection), False)
    )
    if missing:
        return (*[no_update] * 6, True, [], missing, *[no_update] * 6, *beta)
    draws = (
        figures.input_product,
        figures.state_product,
        figures.kernels,
        figures.input_entries,
        figures.state_entries,
        figures.taps,
    )
    drawn = (draw(scene.selection) for draw in draws)
    return (*drawn, False, numbers(scene), summary(scene), *titles(scene), *beta)


def titles(scene: Scene) -> list[str]:
    """List the titles of the figures in order."""
    names = ("input-product", "state-product", "kernels", "input-entries", "state-entries", "taps")
    title_of = words(scene.layer).weights
    return [heading(title_of[name]) for name in names]


def numbers(scene: Scene) -> list[Component]:
    """The scores of the weights, each with what it means."""
    return [
        html.Div(
            [html.B(_number(number)), html.Span(number.name)],
            className="number",
            title=number.text,
        )
        for number in scored_weights(scene.capture, scene.layer)
    ]


def summary(scene: Scene) -> str:
    """Summarise the shapes in a line."""
    pair = weights.pair(scene.selection)
    states, inputs = pair.W_B.shape
    groups = f"group {pair.group} of {pair.groups}, " if pair.groups > 1 else ""
    return f"layer {scene.layer.index}: {groups}{states} states, {inputs} inputs"


def data(scene: Scene) -> xr.Dataset:
    """Return W_B and W_C of the address's group."""
    pair = weights.pair(scene.selection)
    return xr.Dataset(
        {"W_B": (("state", "input"), pair.W_B), "W_C": (("state", "input"), pair.W_C)},
        coords={n: np.arange(s) for n, s in zip(("state", "input"), pair.W_B.shape, strict=True)},
        attrs={
            "model": str(scene.capture.attributes.get("model", "")),
            "layer": scene.layer.index,
            "group": pair.group,
        },
    )


def _number(number: Number) -> str:
    if math.isnan(number.value):
        return "—"
    text = f"{number.value:.0f}" if number.name == "bc_shift" else f"{number.value:.3g}"
    return text.replace("-", "−")


follow(PAGE, "scale", "group")
