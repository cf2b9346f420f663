"""Signals: what drives a layer's states along the prompt, and how long they last."""

from typing import Any

import numpy as np
import xarray as xr
from dash import Input, Output, html, no_update
from dash.development.base_component import Component

from ssmlens.plot import signal_numbers as signals
from ssmlens.plot.catalogue import signal_data
from ssmlens.plot.layer_figures import half_lives, norms, orders, rates, steps
from ssmlens.plot.scales import SCALES
from ssmlens.plot.words import heading, words
from ssmlens_dashboard.controls import choices, follow, segments
from ssmlens_dashboard.elements import figure_card
from ssmlens_dashboard.page import Page, control_id
from ssmlens_dashboard.scene import Scene

_TALL, _LOW = "max(300px, 60vh - 156px)", "max(210px, 40vh - 104px)"  # both rows on one screen
_HALF = "max(255px, 50vh - 130px)"
_FIGURES = {"steps": _TALL, "norms": _LOW, "half-lives": _HALF, "rates": _HALF}


def layout(scene: Scene) -> Component:
    """Build Δ (delta rule: β), B and C along the prompt on the left, and the decay on the right."""
    cards = [
        figure_card(f"signals-{figure}", title, height=height)
        for (figure, height), title in zip(_FIGURES.items(), titles(scene), strict=True)
    ]
    return html.Div(
        [
            html.Div(
                [
                    segments("scale", [(name, name) for name in SCALES]),
                    segments("sort", list(orders(scene.layer).items())),
                    html.Button("whole prompt", id="signals-whole", className="quiet"),
                    html.Span(id="signals-status", className="muted", role="status"),
                ],
                className="toolbar",
            ),
            html.Div(
                [
                    html.Div(cards[:2], className="beside"),
                    html.Div(cards[2:], className="beside"),
                ],
                id="signals-figures",
                className="wide-and-narrow",
            ),
        ]
    )


PAGE = Page(name="signals", title="Signals", order=3, layout=layout, data=lambda scene: data(scene))


@PAGE.view(
    *(Output(f"signals-{figure}", "figure") for figure in _FIGURES),
    Output("signals-figures", "hidden"),
    Output("signals-status", "children"),
    *(Output(f"signals-{figure}-title", "children") for figure in _FIGURES),
    Output(control_id("sort"), "data"),
)
def everything(scene: Scene) -> tuple[Any, ...]:
    """Draw the whole page from the address."""
    missing = signals.why_not(scene.layer)
    if missing:
        return (*[no_update] * 4, True, missing, *[no_update] * 5)
    figures = (draw(scene.selection) for draw in (steps, norms, half_lives, rates))
    return (
        *figures,
        False,
        summary(scene),
        *titles(scene),
        choices([*orders(scene.layer).items()]),
    )


def titles(scene: Scene) -> list[str]:
    """List the titles of the figures."""
    return [heading(title) for title in words(scene.layer).signals.values()]


def summary(scene: Scene) -> str:
    """Summarise the layer's signals in a line."""
    selection = scene.selection
    index, lives = selection.layer.index, signals.half_lives(selection)
    if not scene.layer.finite:
        return f"layer {index}: {scene.layer.verdict.reason}"
    longer = np.mean(lives > selection.length)
    mean = f"mean {words(selection.layer).strength} {signals.mean_steps(selection).mean():.3g}"
    return (
        f"layer {index}: {lives.shape[0]} heads, {mean}, median half-life {np.median(lives):.3g} tokens; "
        f"{longer:.0%} of the half-lives exceed the prompt"
    )


def data(scene: Scene) -> xr.Dataset:
    """Return the numbers of these figures over the tokens of the address."""
    model = str(scene.capture.attributes.get("model", ""))
    return signal_data(scene.selection).assign_attrs(model=model)


PAGE.clientside(
    "zoomed_tokens", Input("signals-steps", "relayoutData"), Input("signals-norms", "relayoutData")
)
follow(PAGE, "scale", "sort")
