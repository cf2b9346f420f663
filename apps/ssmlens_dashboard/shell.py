"""What surrounds every page: navigation, what is looked at, theme, notes, downloads."""

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.dependencies import ALL
from dash.development.base_component import Component

from ssmlens.errors import SsmlensError
from ssmlens.plots.labels import visible
from ssmlens_dashboard.address import Address, defaults, parse
from ssmlens_dashboard.changes import changes
from ssmlens_dashboard.elements import more
from ssmlens_dashboard.library import Entry, Library
from ssmlens_dashboard.page import CONTENT, URL, Page, bind, control_id, here_id, stores
from ssmlens_dashboard.scene import Scene, channels_of, resolve

_LONGEST_PROMPT = 60
_VALUES = (5, 7, 9)  # among what surrounds a page, those that the selects show


def frame(pages: Sequence[Page]) -> Component:
    """The layout of the app, the same for every address."""
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
            dcc.Store(id="mounted"),
            dcc.Store(id="constants", data=constants),
            html.Header(
                [
                    html.Span("ssmlens", className="brand"),
                    html.Nav(id="navigation", **more(aria_label="Pages")),
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
                        title="Light or dark",
                        className="quiet",
                        **more(aria_label="Light or dark"),
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
    """Make the callbacks of the frame and of every page."""
    names = tuple(page.name for page in pages)
    by_name = {page.name: page for page in pages}

    @app.callback(
        Output(CONTENT, "children"),
        Input("structure", "data"),
        State(URL, "pathname"),
        State(URL, "search"),
    )
    def content(structure: str | None, pathname: str | None, search: str | None) -> Any:
        """The page's layout, when another one is asked for."""
        if structure is None:
            return no_update
        address, _ = parse(pathname, search, names)
        page = by_name[address.page]
        try:
            scene = page.scene(pathname, search, library)
            kept = stores(page, f"{pathname}{search or ''}")
            return [*kept, _page_head(page, scene), page.layout(scene)]
        except SsmlensError as error:
            return trouble(error)

    @app.callback(
        Output("theme", "forceColorScheme"),
        Output("navigation", "children"),
        Output("notes", "children"),
        Output("scene", "data"),
        *(
            Output(control_id(f), p)
            for f in ("capture", "layer", "prompt")
            for p in ("data", "value")
        ),
        Output("capture-steps", "hidden"),
        Output("surroundings", "data"),
        Input(URL, "pathname"),
        Input(URL, "search"),
        State("surroundings", "data"),
    )
    def surroundings(pathname: str | None, search: str | None, told: object) -> list[Any]:
        """Navigation, selects and notes, at every address, as far as they change."""
        address, notes = parse(pathname, search, names)
        around = surroundings_of(address, notes, library)
        values = [address.theme, _links(pages, address), *around]
        sent, now = changes(values, told)
        for place in _VALUES:  # the reader may have chosen others since
            sent[place] = values[place]
        return [*sent, now]

    go = ClientsideFunction("ssmlens", "control")
    app.clientside_callback(
        go,
        Input(control_id(ALL), "value"),
        State("scene", "data"),
        prevent_initial_call=True,  # pyright: ignore[reportArgumentType]
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
        Input(here_id(ALL), "data"),
    )
    for page in pages:
        bind(app, page, library, trouble)


def surroundings_of(address: Address, notes: tuple[str, ...], library: Library) -> tuple[Any, ...]:
    """Notes, scene, and options and value of the selects of capture, layer and prompt.

    The last is whether there is no other capture to step to. The scene is what JavaScript knows of the view beyond the
    address: what stands for fields that have no default, the captures (of the same run, if of one), the layers and the
    channels to step through.
    """
    entries = library.entries("capture")
    captures = choices(entries)
    try:
        scene = resolve(address, library, notes)
        capture, here = scene.capture, scene.address
        layers = [{"value": str(index), "label": f"layer {index}"} for index in capture.layers]
        prompts = [
            {"value": str(number), "label": f"prompt {number} {visible(text, _LONGEST_PROMPT)}"}
            for number, text in enumerate(capture.prompt_texts)
        ]
        channels = channels_of(scene.layer)
    except SsmlensError:  # the page itself says what is wrong
        return _note_lines(notes), None, captures, address.capture, [], None, [], None, True
    run = {entry.id: entry.run for entry in entries}
    beside = [it.id for it in entries if it.run == run.get(str(here.capture)) and not it.growing]
    facts = {
        "shown": {"capture": here.capture, "layer": here.layer},
        "captures": beside,
        "layers": list(capture.layers),
        "channels": channels,
    }
    return (
        _note_lines(scene.notes),
        facts,
        *(captures, here.capture, layers, str(here.layer), prompts, str(here.prompt)),
        len(beside) < 2,
    )


def choices(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Captures as the data of a select, those of a run in a group of its name."""
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
    """What stands in a page's place where it cannot be shown: one line, and a way on."""
    return html.Div(
        [
            html.P(str(error), className="what"),
            html.P(["Choose another capture above, or ", html.A("try again", href="")]),
        ],
        className="trouble",
        role="alert",
    )


def _page_head(page: Page, scene: Scene) -> Component:
    """Downloads of what the page shows, as numbers."""
    if page.data is None:
        return html.Div()
    links = [
        html.A(label, className="quiet", href="", **more(data_download=f"{page.name}.{extension}"))
        for extension, label in (("csv", "CSV"), ("nc", "netCDF"))
    ]
    return html.Div([html.Span("data", className="muted"), *links], className="exports downloads")


def _links(pages: Sequence[Page], address: Address) -> list[Component]:
    return [
        dcc.Link(
            page.title,
            href=address.but(page=page.name).href,
            className="here" if page.name == address.page else "",
        )
        for page in pages
    ]


def _note_lines(notes: tuple[str, ...]) -> list[Component]:
    return [html.P(note) for note in notes]


def _step(by: int, sign: str, title: str) -> Component:
    return html.Button(
        sign, className="quiet", title=title, **more(data_step=str(by), aria_label=title)
    )


def _select(field: str, label: str, width: int) -> Component:
    return dmc.Select(
        id=control_id(field),
        data=[],
        allowDeselect=False,
        searchable=field != "capture",
        size="xs",
        w=width,
        **more(aria_label=label),
        placeholder=label,
    )
