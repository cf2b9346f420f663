"""Attribution: a logit split over the text, from files of `ssmlens attribute --out NAME.json`. No model is loaded."""

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
import xarray as xr
from dash import Output, html, no_update
from dash.development.base_component import Component

from ssmlens.errors import SsmlensError
from ssmlens.plot import attribution
from ssmlens.plot.labels import visible
from ssmlens.plot.of_attributions import attribution_title
from ssmlens.plot.scales import SCALES
from ssmlens.store.attribution_file import open_attribution
from ssmlens_dashboard.controls import choices, own_control_id, own_select, write_fields
from ssmlens_dashboard.elements import figure_card, none_found
from ssmlens_dashboard.library import without_folders
from ssmlens_dashboard.listing import Entry
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.scene import Scene

_MAKE = (
    'ssmlens attribute --model copy-mamba2-mimetic --prompt "abcdefgh|abc" --out attribution.json'
)
_OPEN = "ssmlens dashboard attribution.json"
_PROMPT, _NAME = 120, 48  # characters


def layout(_: Scene) -> Component:
    """Build the controls, the summary and the figure, or the message of an empty page."""
    return html.Div(
        [
            none_found(
                "attribution-none",
                "Attributions",
                "To attribute a copied letter and see the result:",
                f"{_MAKE}\n{_OPEN}",
            ),
            html.Div(
                [
                    html.Div(id="attribution-toolbar", className="toolbar"),
                    html.P(id="attribution-status", className="muted", role="status"),
                    figure_card(
                        "attribution-terms",
                        "Attribution",
                        html.Span(
                            "bars: total contribution of each token; rows: the terms, split by source token",
                            className="muted",
                        ),
                    ),
                ],
                id="attribution-all",
            ),
        ]
    )


PAGE = Page(
    name="attribution",
    title="Attribution",
    order=7,
    layout=layout,
    rebuilt_by=(),
    needs_capture=False,
    data=lambda scene: terms(scene),
)


@PAGE.view(
    Output("attribution-terms", "figure"),
    Output("attribution-terms-title", "children"),
    Output("attribution-status", "children"),
    Output("attribution-toolbar", "children"),
    Output("attribution-none", "hidden"),
    Output("attribution-all", "hidden"),
)
def everything(scene: Scene) -> tuple[Any, ...]:
    """Draw the whole page from the address."""
    entries = scene.library.entries("attribution")
    if not entries:
        return (*[no_update] * 4, False, True)
    entry = selected(scene, entries)
    data = read(entry)
    lines = [summary(data)]
    if scene.address.attribution not in (None, entry.id):
        lines.append("the attribution in this address was not found; the first one is shown")
    controls = toolbar(scene, entries, entry)
    return figure(scene, data), attribution_title(data), "; ".join(lines), controls, True, False


def selected(scene: Scene, entries: Sequence[Entry]) -> Entry:
    """Return the file that the address names; the first one if there is no such file."""
    return next((entry for entry in entries if entry.id == scene.address.attribution), entries[0])


def read(entry: Entry) -> xr.Dataset:
    """Read the terms in a file. Raises SsmlensError if they cannot be read."""
    try:
        return open_attribution(entry.path)
    except SsmlensError as error:
        raise type(error)(without_folders(str(error), entry)) from error


def terms(scene: Scene) -> xr.Dataset:
    """Return the terms shown, for download. Raises UsageError if there are none."""
    scene.library.entry(None, "attribution")  # raises if there is none
    return read(selected(scene, scene.library.entries("attribution")))


def figure(scene: Scene, data: xr.Dataset) -> go.Figure:
    """Draw `ssmlens.plot.attribution` as wide as the page."""
    at = scene.address
    drawn = attribution(data, scale=at.scale, title=None, theme=at.theme)
    return drawn.update_layout(width=None, paper_bgcolor=None)


def summary(data: xr.Dataset) -> str:
    """Describe the model, the prompt and how closely the terms sum to the logit."""
    facts = data.attrs
    return (
        f"{visible(facts['model'], _NAME)} on {visible(facts['prompt'], _PROMPT)!r}: {data.sizes['term']} terms sum to "
        f"{facts['sum']:.6g}, off by {facts['closure']:.1e} of the largest logit"
    )


def toolbar(scene: Scene, entries: Sequence[Entry], current: Entry) -> list[Component]:
    """Build the controls with their current values."""
    options = [(entry.id, visible(entry.name, _NAME)) for entry in entries]
    return [
        own_select(PAGE.name, "attribution", options, current.id, 260, searchable=True),
        dmc.SegmentedControl(
            id=own_control_id(PAGE.name, "scale"),
            data=choices([(name, name) for name in SCALES]),
            value=scene.address.scale,
            size="xs",
        ),
    ]


write_fields(PAGE)
