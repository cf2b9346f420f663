"""Maps: what a layer, or one channel of it, looks at; the text coloured by one query's row."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from dash import Input, Output, dcc, html
from dash.development.base_component import Component

from ssmlens.names import ATTENTION
from ssmlens.plots import SCALES
from ssmlens.plots.labels import visible
from ssmlens.plots.lag_profile import lag_profile_spec
from ssmlens.plots.packing import rounded
from ssmlens.plots.theme import Spec
from ssmlens.plots.tiles import marked, tile_spec
from ssmlens_dashboard.address import Address
from ssmlens_dashboard.controls import choices, follow, segments, slider
from ssmlens_dashboard.elements import figure_card
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.page import Page, control_id
from ssmlens_dashboard.scene import Scene, most_channels, resolve
from ssmlens_dashboard.views import maps
from ssmlens_dashboard.views.cache import Cache

_VIEWS = {
    "map": "Attention map",
    "mask": "Attention mask",
    "channel": "Channel",
    "softmax": "Softmax attention",
}
_MOST_DATA = 2048  # tokens a side of a download
_FIGURES: Cache[Spec] = Cache(64 << 20, lambda spec: len(spec["layout"]["images"][0]["source"]))


def layout(scene: Scene) -> Component:
    """The map at the left; at the right its lag profile, and the text under one query's row."""
    tokens = [visible(token) for token in scene.tokens]
    return html.Div(
        [
            dcc.Store(id="maps-tokens", data=tokens),
            dcc.Store(id="maps-row"),
            html.Div(
                [
                    segments("view", options(scene)),
                    segments("scale", [(name, name) for name in SCALES]),
                    html.Div(slider("channel", most_channels(scene.capture)), id="maps-channel"),
                    html.Button("whole map", id="maps-whole", className="quiet"),
                ],
                className="toolbar",
            ),
            html.Div(
                [
                    figure_card("maps-map", "Attention map", height="max(420px, 100vh - 173px)"),
                    html.Div(
                        [
                            figure_card("maps-lags", "Energy by lag", height=230),
                            html.Section(
                                [
                                    html.Div(
                                        html.H2("Row of a query", id="maps-row-title"),
                                        className="card-head",
                                    ),
                                    html.Div(id="maps-text", className="text"),
                                ],
                                className="card",
                            ),
                        ],
                        className="beside",
                    ),
                ],
                className="maps",
            ),
        ]
    )


PAGE = Page(
    name="maps",
    title="Maps",
    order=2,
    layout=layout,
    rebuilt_by=("capture", "prompt"),
    data=lambda scene: data(scene),
    ahead=lambda scene: [partial(_draw, at, scene.library) for at in maps.near(scene)],
)


@PAGE.view(
    Output("maps-map", "figure"),
    Output("maps-map-title", "children"),
    Output("maps-lags", "figure"),
    Output("maps-row", "data"),
    Output("maps-channel", "hidden"),
    Output(control_id("view"), "data"),
)
def everything(scene: Scene) -> tuple[Any, ...]:
    """All that follows from the address, in one answer."""
    return (
        map_figure(scene),
        title(scene),
        lags_figure(scene),
        row(scene),
        scene.address.view != "channel",
        choices(options(scene)),
    )


def map_figure(scene: Scene) -> Spec:
    """The matrix of the address, within its zoom."""
    at, what = scene.address, maps.drawn(scene)
    key = (scene.capture.digest, what.key, at.zoom, at.scale, at.theme)
    return marked(_FIGURES.get(key, lambda: _map_figure(scene, what)), at.query, scene.theme)


def _map_figure(scene: Scene, what: maps.Drawn) -> Spec:
    """The same without its query."""
    return tile_spec(
        maps.shown_tile(what, scene.address.zoom),
        scene.tokens,
        signed=what.signed,
        scale=scene.address.scale,
        limit=maps.colour_limit(what, scene.address.scale),
        theme=scene.theme,
    )


def _draw(address: Address, library: Library) -> None:
    """Make what a view of the address takes longest over."""
    scene = resolve(address, library)
    map_figure(scene)
    lags_figure(scene)


def lags_figure(scene: Scene) -> Spec:
    """Energy per sub-diagonal of the same matrix: what `diagonal_sharpness` reads."""
    energy = maps.lag_energy(maps.drawn(scene))
    figure = lag_profile_spec(energy, first_lag(scene), theme=scene.theme)
    figure["layout"]["margin"] = {"l": 56, "r": 12, "t": 16, "b": 44}
    return figure


def row(scene: Scene) -> dict[str, Any]:
    """The row of the query of the address (the last without one): a value for each token up to it."""
    what = maps.drawn(scene)
    query = what.tokens - 1 if scene.address.query is None else scene.address.query
    values = rounded(maps.window(what, (query, query + 1), (0, query + 1))[0])
    return {"query": query, "values": values, "signed": what.signed, "title": title(scene)}


def data(scene: Scene) -> xr.Dataset:
    """The rectangle of the address at full resolution."""
    what = maps.drawn(scene)
    zoom = scene.address.zoom
    queries = (0, what.tokens) if zoom is None else zoom.queries
    keys = (0, what.tokens) if zoom is None else zoom.keys
    queries, keys = _at_most(queries), _at_most(keys)
    tokens = np.array(scene.tokens, dtype=str)
    return xr.Dataset(
        {"value": (("query", "key"), maps.window(what, queries, keys))},
        coords={
            "query": np.arange(*queries),
            "key": np.arange(*keys),
            "query_token": ("query", tokens[slice(*queries)]),
            "key_token": ("key", tokens[slice(*keys)]),
        },
        attrs={"title": title(scene), "model": str(scene.capture.attributes.get("model", ""))},
    )


def title(scene: Scene) -> str:
    """What is drawn, in words."""
    name = _VIEWS[scene.address.view]
    if scene.address.view == "channel":
        name = f"Channel {scene.address.channel}"
    return f"Layer {scene.address.layer}: {name.lower()}"


def options(scene: Scene) -> list[tuple[str, str]]:
    """What can be drawn of the layer: each view, and its name on the control."""
    layer = scene.layer
    there = ["map"] if layer.kind == ATTENTION else ["map", "mask", "channel"]
    there += ["softmax"] if "softmax_attention_map" in layer else []
    return [(view, view) for view in there]


def first_lag(scene: Scene) -> int:
    """Lags below it are the convolution's: d_conv, or 1."""
    layer = scene.layer
    if "d_conv" in layer.attributes:
        return max(1, int(layer.attributes["d_conv"]))
    return int(layer.shape("conv")[-1]) if "conv" in layer else 1


def _at_most(tokens: tuple[int, int]) -> tuple[int, int]:
    return tokens[0], min(tokens[1], tokens[0] + _MOST_DATA)


PAGE.clientside("zoomed", Input("maps-map", "relayoutData"))
PAGE.clientside(
    "titled",
    Output("maps-row-title", "children"),
    Input("maps-row", "data"),
    Input("maps-tokens", "data"),
)
follow(PAGE, "view", "scale", "channel")
