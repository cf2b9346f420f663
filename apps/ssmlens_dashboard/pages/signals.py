"""Signals: what drives a layer's states along the prompt, and how long they last."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from dash import Input, Output, html, no_update
from dash.development.base_component import Component

from ssmlens.names import FINITE
from ssmlens.plots import SCALES
from ssmlens.plots.signals_decay import half_lives_figure, rates_figure
from ssmlens.plots.signals_tokens import Window, norms_figure, steps_figure
from ssmlens_dashboard.address import HEAD_ORDERS, Range
from ssmlens_dashboard.controls import follow, segments
from ssmlens_dashboard.elements import figure_card
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.views import signals

_TALL, _LOW = "max(300px, 60vh - 156px)", "max(210px, 40vh - 104px)"  # both rows on one screen
_HALF = "max(255px, 50vh - 130px)"
_ORDERS = {"index": "by number", "step": "by mean Δ", "half-life": "by half-life"}


def layout(_: Scene) -> Component:
    """Along the prompt at the left: Δ, then B and C; at the right the decay."""
    return html.Div(
        [
            html.Div(
                [
                    segments("scale", [(name, name) for name in SCALES]),
                    segments("sort", [(name, _ORDERS[name]) for name in HEAD_ORDERS]),
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
    figures = (draw(scene) for draw in (steps, norms, half_lives, rates))
    return (*figures, False, told(scene))


def steps(scene: Scene) -> go.Figure:
    """Δ over the tokens of the address and all heads."""
    what, shown = signals.heard(scene), tokens_shown(scene)
    cells, heads = signals.step_cells(what, shown, scene.address.sort)
    return steps_figure(
        cells,
        heads,
        "head" if scene.address.sort == "index" else f"heads {_ORDERS[scene.address.sort]}",
        Window(scene.tokens, *shown, signals.block_of(shown, signals.COLUMNS)),
        scale=scene.address.scale,
        limit=signals.step_limit(what, scene.address.scale),
        theme=scene.theme,
    )


def norms(scene: Scene) -> go.Figure:
    """‖B‖ and ‖C‖ over the tokens of the address."""
    shown = tokens_shown(scene)
    window = Window(scene.tokens, *shown, signals.block_of(shown, signals.POINTS))
    return norms_figure(signals.norms(signals.heard(scene), shown), window, theme=scene.theme)


def half_lives(scene: Scene) -> go.Figure:
    """Half-lives in tokens, by state or by head."""
    what = signals.heard(scene)
    return half_lives_figure(signals.half_lives(what), what.tokens, theme=scene.theme)


def rates(scene: Scene) -> go.Figure:
    """How often which |A| occurs."""
    what = signals.heard(scene)
    edges, counts = signals.rate_counts(what)
    return rates_figure(edges, counts, signals.counted(what.layer), theme=scene.theme)


def told(scene: Scene) -> str:
    """The layer's signals in a line."""
    what = signals.heard(scene)
    index, lives = what.layer.index, signals.half_lives(what)
    if what.layer.finite != FINITE:
        reason = str(what.layer.attributes.get("reason", ""))
        return f"layer {index}: not finite ({what.layer.finite})" + f": {reason}" * bool(reason)
    longer = np.mean(lives > what.tokens)
    return (
        f"layer {index}: {lives.shape[0]} heads, mean Δ {signals.mean_steps(what).mean():.3g}, median half-life "
        f"{np.median(lives):.3g} tokens; {longer:.0%} of the states have one longer than the prompt"
    )


def data(scene: Scene) -> xr.Dataset:
    """Δ by token and head over the tokens of the address, the norms of B and C, each head's median half-life."""
    what = signals.heard(scene)
    first, end = tokens_shown(scene)
    norms = {f"{n}_norm": ("token", signals.norm(what, n)[first:end].mean(1)) for n in ("B", "C")}
    return xr.Dataset(
        {
            "delta": (("token", "head"), signals.steps(what)[first:end]),
            "half_life": ("head", np.median(signals.half_lives(what), axis=1)),
            **norms,
        },
        coords={
            "token": np.arange(first, end),
            "token_string": ("token", np.array(scene.tokens[first:end], dtype=str)),
        },
        attrs={"model": str(scene.capture.attributes.get("model", "")), "layer": what.layer.index},
    )


def tokens_shown(scene: Scene) -> Range:
    """The tokens of the address: the keys of its zoom, or all."""
    zoom = scene.address.zoom
    return (0, signals.heard(scene).tokens) if zoom is None else zoom.keys


PAGE.clientside(
    "zoomed_tokens", Input("signals-steps", "relayoutData"), Input("signals-norms", "relayoutData")
)
follow(PAGE, "scale", "sort")
