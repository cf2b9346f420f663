"""The frame of every page: navigation, selects, theme, notes, downloads."""

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.dependencies import ALL, Wildcard
from dash.development.base_component import Component

from ssmlens.errors import SsmlensError
from ssmlens.plot.labels import visible
from ssmlens.plot.selection import heads_of
from ssmlens_dashboard.address import Address, defaults, parse, substitutes
from ssmlens_dashboard.changes import changes
from ssmlens_dashboard.controls import following
from ssmlens_dashboard.elements import attributes
from ssmlens_dashboard.library import GrowingError, Library, first
from ssmlens_dashboard.listing import Entry
from ssmlens_dashboard.page import CONTENT, URL, Page, bind, control_id, page_url_id, stores
from ssmlens_dashboard.scene import Scene, resolve

_LONGEST_PROMPT = 60
_SELECTS = ("capture", "layer", "prompt")
_SOON = 2_000  # milliseconds between two reads of a growing capture


def frame(pages: Sequence[Page]) -> Component:
    """Build the layout of the app, the same for every address."""
    constants = {
        "rebuiltBy": {page.name: list(page.rebuilt_by) for page in pages},
        "defaults": defaults(),
    }
    return dmc.MantineProvider(
        id="theme",
        children=[
            dcc.Location(id=URL, refresh="callback-nav"),
            dcc.Store(id="scene"),
            dcc.Store(id="structure"),
            dcc.Store(id="surroundings"),
            dcc.Store(id="shown"),
            dcc.Store(id="again"),
            dcc.Store(id="mounted"),
            dcc.Store(id="constants", data=constants),
            html.Header(
                [
                    html.Span("ssmlens", className="brand"),
                    html.Nav(id="navigation", **attributes(aria_label="Pages")),
                    _select("capture", "Capture", 260),
                    html.Span(
                        [_step(-1, "‹", "Previous capture (p)"), _step(1, "›", "Next capture (n)")],
                        id="capture-steps",
                        hidden=True,
                    ),
                    _select("layer", "Layer", 104),
                    _select("prompt", "Prompt", 220),
                    html.Button(
                        "◐",
                        id="theme-switch",
                        title="Switch between light and dark",
                        className="quiet",
                        **attributes(aria_label="Switch between light and dark"),
                    ),
                ],
                className="header",
            ),
            html.Div(id="notes", role="status", className="notes"),
            html.Main(id=CONTENT),
            html.Div(id="hover", className="hover", hidden=True),
        ],
    )


def connect(app: Dash, pages: Sequence[Page], library: Library) -> None:
    """Register the callbacks of the frame and of every page."""
    names = tuple(page.name for page in pages)
    by_name = {page.name: page for page in pages}

    @app.callback(
        Output(CONTENT, "children"),
        Input("structure", "data"),
        State(URL, "pathname"),
        State(URL, "search"),
    )
    def content(structure: str | None, pathname: str | None, search: str | None) -> Any:
        """Build the page's layout when another one is needed."""
        if structure is None:
            return no_update
        address, _ = parse(pathname, search, names)
        page = by_name[address.page]
        try:
            scene = page.scene(pathname, search, library)
            page_stores = stores(page, f"{pathname}{search or ''}")
            return [*page_stores, _page_head(page, scene), page.layout(scene)]
        except SsmlensError as error:
            return trouble(error)

    @app.callback(
        Output("theme", "forceColorScheme"),
        Output("navigation", "children"),
        Output("notes", "children"),
        Output("scene", "data"),
        *(Output(control_id(field), "data") for field in _SELECTS),
        Output("capture-steps", "hidden"),
        Output("surroundings", "data"),
        Input(URL, "pathname"),
        Input(URL, "search"),
        Input("again", "data"),
        State("surroundings", "data"),
    )
    def surroundings(
        pathname: str | None, search: str | None, _again: object, before: object
    ) -> list[Any]:
        """Update the navigation, the choices of the selects and the notes at every address."""
        address, notes = parse(pathname, search, names)
        values = surroundings_of(address, notes, library, search)
        sent, now = changes([address.theme, _links(pages, address), *values], before)
        return [*sent, now]

    connect_scripts(app, pages)
    for page in pages:
        bind(app, page, library, trouble)


def connect_scripts(app: Dash, pages: Sequence[Page]) -> None:
    """Register the callbacks that run in the browser (assets/), once each even if several pages use them."""
    app.clientside_callback(
        ClientsideFunction("ssmlens", "control"),
        Input(control_id(ALL), "value"),
        prevent_initial_call=True,  # pyright: ignore[reportArgumentType]
    )
    frame_scripts = [("controls", following(field)) for field in _SELECTS]
    for function, dependencies in dict.fromkeys(
        [*frame_scripts, *(script for page in pages for script in page.scripts)]
    ):
        app.clientside_callback(ClientsideFunction("ssmlens", function), *dependencies)
    app.clientside_callback(ClientsideFunction("ssmlens", "receive"), Input("scene", "data"))
    app.clientside_callback(
        ClientsideFunction("ssmlens", "again"), Input(_again_id(ALL), "n_intervals")
    )
    app.clientside_callback(
        ClientsideFunction("ssmlens", "structure"),
        Output("structure", "data"),
        Input(URL, "pathname"),
        Input(URL, "search"),
        State("constants", "data"),
    )
    app.clientside_callback(
        ClientsideFunction("ssmlens", "mounted"),
        Output("mounted", "data"),
        Input(page_url_id(ALL), "data"),
    )


def surroundings_of(
    address: Address, notes: tuple[str, ...], library: Library, search: str | None
) -> tuple[Any, ...]:
    """Return the notes, the scene, the choices of capture, layer and prompt, and whether to hide the capture steps.

    The scene is what JavaScript knows beyond the address: `shown` maps each field and its value in the address to the
    value shown; `captures` (of the same run), `layers` and `channels` list what the reader can step through.
    """
    entries = library.entries("capture")
    captures = choices(entries)
    try:
        scene = resolve(address, library, notes)
        capture, address = scene.capture, scene.address
        layers = [{"value": str(index), "label": f"layer {index}"} for index in capture.layers]
        prompts = [
            {"value": str(number), "label": f"prompt {number} {visible(text, _LONGEST_PROMPT)}"}
            for number, text in enumerate(capture.prompt_texts)
        ]
        channels = heads_of(scene.layer)
    except SsmlensError:  # the page shows the error
        return _note_lines(notes), None, captures, [], [], True
    run = {entry.id: entry.run for entry in entries}
    same_run = [
        entry.id
        for entry in entries
        if entry.run == run.get(str(address.capture)) and not entry.growing
    ]
    values = substitutes(search, address)
    values.setdefault("capture", {})[""] = first(entries).id
    values.setdefault("layer", {})[""] = str(capture.layers[0])
    facts = {
        "shown": values,
        "captures": same_run,
        "layers": list(capture.layers),
        "channels": channels,
    }
    return (
        _note_lines(scene.notes),
        facts,
        *(captures, layers, prompts),
        len(same_run) < 2,
    )


def choices(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Format captures as the data of a select, grouped by run."""
    options: list[dict[str, Any]] = []
    groups: dict[Entry, list[dict[str, Any]]] = {}
    for entry in entries:
        option = {"value": entry.id, "label": entry.name + (" (growing)" if entry.growing else "")}
        if entry.run is None:
            options.append(option)
        else:
            groups.setdefault(entry.run, []).append(option)
    return options + [{"group": run.name, "items": items} for run, items in groups.items()]


def trouble(error: SsmlensError) -> Component:
    """Build the message that replaces a page that cannot be shown. For a growing capture it tries again by itself."""
    growing = isinstance(error, GrowingError)
    return html.Div(
        [
            html.P(str(error), className="what"),
            html.P(["Choose another capture above, or ", html.A("try again", href="")]),
            *([dcc.Interval(id=_again_id("growing"), interval=_SOON)] if growing else []),
        ],
        className="trouble",
        role="alert",
    )


def _page_head(page: Page, scene: Scene) -> Component:
    """Build the download links of the page's numbers."""
    if page.data is None:
        return html.Div()
    links = [
        html.A(
            label,
            className="quiet",
            href="",
            **attributes(data_download=f"{page.name}.{extension}"),
        )
        for extension, label in (("csv", "CSV"), ("nc", "netCDF"))
    ]
    return html.Div([html.Span("data", className="muted"), *links], className="exports downloads")


def _links(pages: Sequence[Page], address: Address) -> list[Component]:
    return [
        dcc.Link(
            page.title,
            href=address.replace(page=page.name).href,
            className="here" if page.name == address.page else "",
        )
        for page in pages
    ]


def _note_lines(notes: tuple[str, ...]) -> list[Component]:
    return [html.P(note) for note in notes]


def _step(by: int, sign: str, title: str) -> Component:
    return html.Button(
        sign, className="quiet", title=title, **attributes(data_step=str(by), aria_label=title)
    )


def _again_id(why: str | Wildcard) -> dict[str, str | Wildcard]:
    """The id of an interval after which the page is requested again."""
    return {"type": "again", "why": why}


def _select(field: str, label: str, width: int) -> Component:
    return dmc.Select(
        id=control_id(field),
        data=[],
        allowDeselect=False,
        searchable=field != "capture",
        size="xs",
        w=width,
        **attributes(aria_label=label),
        placeholder=label,
    )
