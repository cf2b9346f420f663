"""Signals: what drives a layer's states along the prompt, and how long they last."""

from typing import Any

import numpy as np
import xarray as xr
from dash import Input, Output, html, no_update
from dash.development.base_component import Component

from ssmlens.plot import signal_numbers as signals
from ssmlens.plot.catalogue import signal_data
from ssmlens.plot.layer_figures import ORDERS, half_lives, norms, rates, steps
from ssmlens.plot.scales import SCALES
from ssmlens.plot.selection import HEAD_ORDERS
from ssmlens_dashboard.controls import follow, segments
from ssmlens_dashboard.elements import figure_card
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.scene import Scene

_TALL, _LOW = "max(300px, 60vh - 156px)", "max(210px, 40vh - 104px)"  # both rows on one screen
_HALF = "max(255px, 50vh - 130px)"


def layout(_: Scene) -> Component:
    """Along the prompt at the left: Δ, then B and C; at the right the decay."""
    return html.Div(
        [
            html.Div(
                [
                    segments("scale", [(name, name) for name in SCALES]),
                    segments("sort", [(name, ORDERS[name]) for name in HEAD_ORDERS]),
                    html.Button("whole prompt", id="signals-whole", className="quiet"),
                    html.Span(id="signals-told", className="muted", role="status"),
                ],
                className="toolbar",
            ),
            html.Div(
                [
                    html.Div(
                        [
                            figure_card("signals-steps", "Δ by token and head", height=_TALL),
                            figure_card("signals-norms", "Length of B and C by token", height=_LOW),
                        ],
                        className="beside",
                    ),
                    html.Div(
                        [
                            figure_card(
                                "signals-half-lives", "Half-lives at the mean Δ", height=_HALF
                            ),
                            figure_card("signals-rates", "Rates of decay |A|", height=_HALF),
                        ],
                        className="beside",
                    ),
                ],
                id="signals-figures",
                className="wide-and-narrow",
            ),
        ]
    )


PAGE = Page(name="signals", title="Signals", order=3, layout=layout, data=lambda scene: data(scene))


@PAGE.view(
    Output("signals-steps", "figure"),
    Output("signals-norms", "figure"),
    Output("signals-half-lives", "figure"),
    Output("signals-rates", "figure"),
    Output("signals-figures", "hidden"),
    Output("signals-told", "children"),
)
def everything(scene: Scene) -> tuple[Any, ...]:
    """All that follows from the address, in one answer."""
    missing = signals.why_not(scene.layer)
    if missing:
        return (*[no_update] * 4, True, missing)
    figures = (draw(scene.selection) for draw in (steps, norms, half_lives, rates))
    return (*figures, False, told(scene))


def told(scene: Scene) -> str:
    """The layer's signals in a line."""
    what = scene.selection
    index, lives = what.layer.index, signals.half_lives(what)
    if not scene.layer.finite:
        return f"layer {index}: {scene.layer.verdict.reason}"
    longer = np.mean(lives > what.length)
    return (
        f"layer {index}: {lives.shape[0]} heads, mean Δ {signals.mean_steps(what).mean():.3g}, median half-life "
        f"{np.median(lives):.3g} tokens; {longer:.0%} of the states have one longer than the prompt"
    )


def data(scene: Scene) -> xr.Dataset:
    """Δ by token and head over the tokens of the address, the norms of B and C, each head's median half-life."""
    model = str(scene.capture.attributes.get("model", ""))
    return signal_data(scene.selection).assign_attrs(model=model)


PAGE.clientside(
    "zoomed_tokens", Input("signals-steps", "relayoutData"), Input("signals-norms", "relayoutData")
)
follow(PAGE, "scale", "sort")
