"""Attribution: a logit taken apart over the text. Files of `ssmlens attribute --out NAME.json`; no model is loaded."""

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
    """What can be chosen, what it is of, the figure; or what to do where there is none."""
    return html.Div(
        [
            none_found(
                "attribution-none",
                "Attributions",
                "One of a copied letter, and where it is seen:",
                f"{_MAKE}\n{_OPEN}",
            ),
            html.Div(
                [
                    html.Div(id="attribution-toolbar", className="toolbar"),
                    html.P(id="attribution-told", className="muted", role="status"),
                    figure_card(
                        "attribution-terms",
                        "Attribution",
                        html.Span(
                            "bars: what each token adds in all; rows: the terms, by the token that they take it from",
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
    Output("attribution-told", "children"),
    Output("attribution-toolbar", "children"),
    Output("attribution-none", "hidden"),
    Output("attribution-all", "hidden"),
)
def everything(scene: Scene) -> tuple[Any, ...]:
    """All that follows from the address."""
    entries = scene.library.entries("attribution")
    if not entries:
        return (*[no_update] * 4, False, True)
    now = chosen(scene, entries)
    data = read(now)
    lines = [summary(data)]
    if scene.address.attribution not in (None, now.id):
        lines.append("the attribution of this address is not here; shown is the first there is")
    controls = toolbar(scene, entries, now)
    return figure(scene, data), attribution_title(data), "; ".join(lines), controls, True, False


def chosen(scene: Scene, entries: Sequence[Entry]) -> Entry:
    """The file that the address names; the first there is where it names none, or one that is not there."""
    return next((it for it in entries if it.id == scene.address.attribution), entries[0])


def read(entry: Entry) -> xr.Dataset:
    """The terms in a file. Raises SsmlensError where they cannot be read."""
    try:
        return open_attribution(entry.path)
    except SsmlensError as error:
        raise type(error)(without_folders(str(error), entry)) from error


def terms(scene: Scene) -> xr.Dataset:
    """The terms shown, for download. Raises UsageError where there are none."""
    scene.library.entry(None, "attribution")  # raises where there is none
    return read(chosen(scene, scene.library.entries("attribution")))


def figure(scene: Scene, data: xr.Dataset) -> go.Figure:
    """The figure of `ssmlens.plot.attribution`, as wide as the page."""
    at = scene.address
    drawn = attribution(data, scale=at.scale, title=None, theme=at.theme)
    return drawn.update_layout(width=None, paper_bgcolor=None)


def summary(data: xr.Dataset) -> str:
    """Of which model and prompt the terms are, and whether they sum to the logit."""
    of = data.attrs
    return (
        f"{visible(of['model'], _NAME)} on {visible(of['prompt'], _PROMPT)!r}: {data.sizes['term']} terms sum to "
        f"{of['sum']:.6g}, off by {of['closure']:.1e} of the largest logit"
    )


def toolbar(scene: Scene, entries: Sequence[Entry], now: Entry) -> list[Component]:
    """What can be chosen, as it stands."""
    options = [(entry.id, visible(entry.name, _NAME)) for entry in entries]
    return [
        own_select(PAGE.name, "attribution", options, now.id, 260, searchable=True),
        dmc.SegmentedControl(
            id=own_control_id(PAGE.name, "scale"),
            data=choices([(name, name) for name in SCALES]),
            value=scene.address.scale,
            size="xs",
        ),
    ]


write_fields(PAGE)
