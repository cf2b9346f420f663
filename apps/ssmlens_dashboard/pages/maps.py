"""Maps: the matrix of a layer or of one channel, and the text coloured by one query's row."""

import dataclasses
from functools import partial
from typing import Any

import xarray as xr
from dash import Input, Output, dcc, html
from dash.development.base_component import Component

from ssmlens.plot.catalogue import matrix_numbers
from ssmlens.plot.labels import visible
from ssmlens.plot.layer_figures import lags_spec, matrix_name, matrix_spec
from ssmlens.plot.matrix import window
from ssmlens.plot.packing import rounded
from ssmlens.plot.scales import SCALES
from ssmlens.plot.selection import kinds_of
from ssmlens.plot.theme import Spec
from ssmlens.plot.tiles import marked
from ssmlens_dashboard.address import Address
from ssmlens_dashboard.controls import choices, follow, segments, slider
from ssmlens_dashboard.elements import figure_card
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.page import Page, control_id
from ssmlens_dashboard.scene import Scene, most_channels, resolve
from ssmlens_dashboard.views import maps
from ssmlens_dashboard.views.cache import CACHE


def layout(scene: Scene) -> Component:
    """Build the map on the left; on the right its lag profile and the text coloured by one row."""
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
    """Draw the whole page from the address."""
    return (
        map_figure(scene),
        title(scene),
        lags_figure(scene),
        row(scene),
        scene.address.view != "channel",
        choices(options(scene)),
    )


def map_figure(scene: Scene) -> Spec:
    """Draw the matrix of the address within its zoom."""
    at, selection = scene.address, scene.selection
    key = ("figure", scene.capture.digest, selection.matrix_key, at.zoom, at.scale, at.theme)
    plain = dataclasses.replace(selection, query=None)
    return marked(CACHE.get(key, lambda: matrix_spec(plain)), at.query, scene.theme)


def _draw(address: Address, library: Library) -> None:
    """Draw the slow figures of an address, so that they are cached."""
    scene = resolve(address, library)
    map_figure(scene)
    lags_figure(scene)


def lags_figure(scene: Scene) -> Spec:
    """Draw the energy per sub-diagonal of the same matrix, which `diagonal_sharpness` measures."""
    return lags_spec(scene.selection)


def row(scene: Scene) -> dict[str, Any]:
    """Return the row of the address's query (default: the last): one value per visible token."""
    selection = scene.selection
    query = selection.length - 1 if scene.address.query is None else scene.address.query
    end = query + 1 if selection.causal else selection.length
    values = rounded(window(selection, (query, query + 1), (0, end))[0])
    return {
        **{
            "query": query,
            "values": values,
            "signed": selection.signed,
            "causal": selection.causal,
        },
        "title": title(scene),
    }


def data(scene: Scene) -> xr.Dataset:
    """Return the rectangle of the address at full resolution."""
    model = str(scene.capture.attributes.get("model", ""))
    return matrix_numbers(scene.selection).assign_attrs(model=model)


def title(scene: Scene) -> str:
    """Name the matrix drawn."""
    return f"Layer {scene.address.layer}: {matrix_name(scene.selection)}"


def options(scene: Scene) -> list[tuple[str, str]]:
    """List the layer's matrices as options: value and label."""
    return [(kind, kind) for kind in kinds_of(scene.layer)]


PAGE.clientside("zoomed", Input("maps-map", "relayoutData"))
PAGE.clientside(
    "titled",
    Output("maps-row-title", "children"),
    Input("maps-row", "data"),
    Input("maps-tokens", "data"),
)
follow(PAGE, "view", "scale", "channel")
