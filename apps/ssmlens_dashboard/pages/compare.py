"""Compare: two or more places (capture, layer, prompt) side by side with one zoom, and their differences."""

import math
import re
from collections.abc import Iterator
from typing import Any

from dash import Input, Output, dcc, html
from dash.dependencies import ALL
from dash.development.base_component import Component

from ssmlens.errors import UsageError
from ssmlens.names import MASK
from ssmlens.plot.labels import visible
from ssmlens.plot.matrix import colour_limit
from ssmlens.plot.scales import SCALES
from ssmlens.plot.selection import KINDS, kinds_of
from ssmlens.plot.side_by_side import Panel, side_by_side
from ssmlens.plot.theme import Spec
from ssmlens.plot.tiles import tile_spec
from ssmlens_dashboard import places
from ssmlens_dashboard.address import LIMITS, Address, Place
from ssmlens_dashboard.controls import SHOWN, follow, segments, slider
from ssmlens_dashboard.elements import figure_card
from ssmlens_dashboard.listing import Entry
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.scene import Scene, most_channels
from ssmlens_dashboard.views import compare
from ssmlens_dashboard.views.compare import Side

_PAIRS = (("default", "mimetic"), ("before", "after"), ("teacher", "student"))
_NAMES = {"map": "Maps", "mask": "Masks", "erase": "Erase maps", "softmax": "Softmax maps"}
_STEP = re.compile(r"step[-_]?([0-9]+)")
_MOST_DATA = 1024  # most tokens per side of a download
_MOST_NAMED = 4096  # most tokens whose text the hover box shows
_TITLE = 96  # characters, over all columns
_TALLEST = 380  # pixels of a panel on a small screen; panels grow with the screen
_WIDTH = 1120  # pixels of all panels on a small screen


def layout(scene: Scene) -> Component:
    """Build the controls, the places, the maps with their differences, and the scores."""
    kinds = {
        kind for index in scene.capture.layers for kind in kinds_of(scene.capture.layer(index))
    }
    views = [kind for kind in KINDS if kind in kinds]
    return html.Div(
        [
            dcc.Store(id="compare-sides"),
            html.Div(id="compare-hover", className="hover", hidden=True),
            html.Div(
                [
                    segments("view", [(view, view) for view in views]),
                    segments("scale", [(name, name) for name in SCALES]),
                    segments("limits", [(name, f"{name} limits") for name in LIMITS]),
                    html.Div(
                        slider("channel", most_channels(scene.capture)),
                        id="compare-channel",
                        hidden=True,
                    ),
                    html.Button("whole map", id="compare-whole", className="quiet"),
                ],
                className="toolbar",
            ),
            html.Div(
                [
                    *places.rows(),
                    html.Button("+ place", id="compare-add", className="quiet"),
                    html.Span(id="compare-presets", className="place"),
                ],
                className="places",
            ),
            figure_card("compare-maps", "Maps side by side"),
            html.Section(
                [
                    html.Div(html.H2("Scores of each place"), className="card-head"),
                    html.Div(id="compare-scores"),
                ],
                className="card",
            ),
        ],
        className="compare",
    )


PAGE = Page(
    name="compare",
    title="Compare",
    order=5,
    layout=layout,
    data=lambda scene: compare.numbers(open_places(scene), scene.address.zoom, _MOST_DATA),
)


@PAGE.view(
    Output("compare-sides", "data"),
    *places.outputs(),
    Output("compare-add", "hidden"),
    Output("compare-presets", "children"),
    Output("compare-channel", "hidden"),
)
def choosable(scene: Scene) -> tuple[Any, ...]:
    """Update the choices and the places, on the page and for the pointer."""
    opened = open_places(scene)
    links = [dcc.Link(name, href=target.href, className="quiet") for name, target in presets(scene)]
    return (
        for_pointer(scene, opened),
        *places.filled(opened, scene.library),
        len(opened) == len(compare.LETTERS),
        [html.Span("or compare", className="muted"), *links],
        scene.address.view != "channel",
    )


@PAGE.view(
    Output("compare-maps", "figure"),
    Output("compare-maps", "style"),
    Output("compare-maps-title", "children"),
)
def drawn(scene: Scene) -> tuple[Spec, dict[str, Any], str]:
    """Draw the maps. Also return a style that keeps panels about square within the page, and the title."""
    figure = maps_figure(scene, open_places(scene))
    width, height = (figure["layout"].pop(side) for side in ("width", "height"))
    # The minimum height implies a width by the aspect ratio; on a small screen the page limits it.
    room = {"aspectRatio": f"{width} / {height}", "minHeight": height, "maxWidth": "100%"}
    return figure, room, title(scene)


@PAGE.view(Output("compare-scores", "children"), also=(Input("compare-maps", "style"),))
def scores(scene: Scene, _drawn: object = None) -> Component:
    """Scores of each place, and how far its matrix is from the first; once the maps are drawn, which matter more."""
    opened = open_places(scene)
    rows = [(name, values) for name, values in compare.scores_of(opened).items()]
    first = opened[0].drawn
    apart = [
        compare.apart(first, side.drawn) if first and side.drawn else (math.nan, math.nan)
        for side in opened[1:]
    ]
    rows += [
        ("‖A − other‖ / ‖A‖", [math.nan, *(relative for relative, _ in apart)]),
        ("correlation with A", [math.nan, *(correlation for _, correlation in apart)]),
    ]
    head = html.Tr([html.Th(""), *(html.Th(_title(side, opened, 60)) for side in opened)])
    chance = compare.by_chance(opened)
    titles = {name: f"by chance {level}" for name, level in chance.items()}
    body = [
        html.Tr([html.Th(name, title=titles.get(name, "")), *map(_cell, values)])
        for name, values in rows
    ]
    return html.Table([html.Thead(head), html.Tbody(body)], className="scores")


def open_places(scene: Scene) -> list[Side]:
    """Open the places of the address; a single place gets the likeliest partner."""
    if not scene.address.against:
        scene = Scene(
            scene.address.replace(against=(suggested(scene),)), scene.library, scene.notes
        )
    return compare.sides(scene)


def suggested(scene: Scene) -> Place:
    """Choose the default partner of a place: its preset partner, another prompt, or another layer."""
    for _, address in presets(scene):
        if address.capture == scene.address.capture and address.against:
            return address.against[0]
    at = scene.address
    assert at.capture is not None
    assert at.layer is not None
    return Place(at.capture, at.layer, at.prompt)


def presets(scene: Scene) -> list[tuple[str, Address]]:
    """List suggested comparisons in the library: a name and an address each."""
    at, capture = scene.address, scene.capture
    assert at.capture is not None
    assert at.layer is not None
    current = scene.library.entry(at.capture)
    comparisons = [
        (name, at.replace(capture=one.id, against=(Place(other.id, at.layer, at.prompt),)))
        for name, one, other in _partners(current, scene.library.entries("capture"))
    ]
    if capture.prompts > 1:
        other = (at.prompt + 1) % capture.prompts
        beside = Place(at.capture, at.layer, other)
        comparisons.append(
            (f"prompt {at.prompt} and prompt {other}", at.replace(against=(beside,)))
        )
    if len(capture.layers) > 1:
        other = capture.layers[(capture.layers.index(at.layer) + 1) % len(capture.layers)]
        beside = Place(at.capture, other, at.prompt)
        comparisons.append((f"layer {at.layer} and layer {other}", at.replace(against=(beside,))))
    return comparisons


def maps_figure(scene: Scene, opened: list[Side]) -> Spec:
    """Draw two places and their difference in a row; for more places, put the differences in a second row."""
    at = scene.address
    selections = [side.drawn for side in opened if side.drawn is not None]
    limit = compare.shared_limit(selections, at.scale) if at.limits == "shared" else None
    columns = 3 if len(opened) == 2 else len(opened)
    panels = [_panel(side, scene, opened, limit, columns) for side in opened]
    apart = [_difference(opened[0], side, scene, limit) for side in opened[1:]]
    rows = [[*panels, *apart]] if len(opened) == 2 else [panels, [None, *apart]]
    texts = {tuple(side.scene.tokens) for side in opened if side.scene}
    side = min(_TALLEST, _WIDTH // columns)
    return side_by_side(rows, side=side, same_queries=len(texts) == 1, theme=scene.theme)


def title(scene: Scene) -> str:
    """Name the matrices drawn."""
    at = scene.address
    name = f"Channel {at.channel}" if at.view == "channel" else _NAMES[at.view]
    return f"{name} side by side"


def for_pointer(scene: Scene, opened: list[Side]) -> dict[str, Any]:
    """Collect the data of the hover box, and the places as text in the form of the address."""
    zoom = scene.address.zoom
    first = 0 if zoom is None else min(zoom.queries[0], zoom.keys[0])
    longest = max(side.drawn.length for side in opened if side.drawn is not None)
    end = longest if zoom is None else max(zoom.queries[1], zoom.keys[1])
    texts: dict[tuple[str, ...], int] = {}
    side_data = []
    for side in opened:
        if side.scene is None or side.drawn is None:
            continue
        words = tuple(side.scene.tokens[first:end]) if end - first <= _MOST_NAMED else ()
        at = side.scene.address
        matrix_address = Address(
            capture=at.capture, layer=at.layer, prompt=at.prompt, view=at.view, channel=at.channel
        )
        side_data.append(
            {
                "letter": side.letter,
                "values": f"/values{matrix_address.search}",
                "tokens": side.drawn.length,
                "text": texts.setdefault(words, len(texts)),
            }
        )
    return {
        "against": "~".join(map(str, scene.address.against)),
        "places": [str(side.place) for side in opened],
        "sides": side_data,
        "first": first,
        "texts": [[visible(word) for word in words] for words in texts],
    }


def _panel(
    side: Side, scene: Scene, opened: list[Side], limit: float | None, columns: int
) -> Panel:
    title = _title(side, opened, _TITLE // columns)
    selection = side.drawn
    if selection is None or side.scene is None:
        return Panel(title, None, "cannot be shown")
    cells = compare.panel_tile(selection, scene.address.zoom)
    if cells is None:
        return Panel(title, None, "no tokens in this region")
    figure = tile_spec(
        cells,
        side.scene.tokens,
        signed=selection.signed,
        scale=scene.address.scale,
        limit=colour_limit(selection) if limit is None else limit,
        theme=scene.theme,
    )
    return Panel(title, figure)


def _difference(one: Side, other: Side, scene: Scene, limit: float | None) -> Panel:
    title = f"{one.letter} − {other.letter}"
    a, b = one.drawn, other.drawn
    if a is None or b is None or one.scene is None or other.scene is None:
        return Panel(title, None, "")
    try:
        cells = compare.difference_tile(a, b, scene.address.zoom)
    except UsageError as error:
        return Panel(title, None, str(error))
    if a.length != b.length:
        title += f", the {min(a.length, b.length)} tokens of both"
    shorter = one.scene if a.length <= b.length else other.scene
    if limit is None and a.kind == MASK and scene.address.limits == "shared":
        limit = 1.0  # the upper end of a mask
    figure = tile_spec(
        cells, shorter.tokens, scale=scene.address.scale, limit=limit, theme=scene.theme
    )
    return Panel(title, figure)


def _partners(current: Entry, entries: list[Entry]) -> Iterator[tuple[str, Entry, Entry]]:
    """Yield captures whose names differ from this one in one word or step, in display order."""
    by_name = {entry.name: entry for entry in entries}
    for one, other in _PAIRS:
        for word, partner_word in ((one, other), (other, one)):
            partner = by_name.get(current.name.replace(word, partner_word))
            if partner is not None and partner != current:
                pair = (current, partner) if word == one else (partner, current)
                yield f"{one} and {other}", *pair
    steps = {
        int(match[1]): entry
        for entry in entries
        if (match := _STEP.search(entry.name))
        and _STEP.sub("", entry.name) == _STEP.sub("", current.name)
    }
    if len(steps) > 1:
        yield f"step {min(steps)} and step {max(steps)}", steps[min(steps)], steps[max(steps)]


def _title(side: Side, opened: list[Side], longest: int) -> str:
    """Name a place briefly: leave out what all places share."""
    parts = [f"layer {side.place.layer}"]
    if len({other.place.prompt for other in opened}) > 1:
        parts.append(f"prompt {side.place.prompt}")
    if len({other.place.capture for other in opened}) > 1:
        room = max(8, longest - sum(map(len, parts)) - 6)
        parts.insert(0, visible(side.name, room))
    return f"{side.letter}  {', '.join(parts)}"


def _cell(value: float) -> Component:
    integral = math.isfinite(value) and value == round(value) and abs(value) < 1e9
    if not math.isfinite(value):
        return html.Td("—")
    return html.Td(f"{value:.0f}" if integral else f"{value:.3g}".replace("-", "−"))


PAGE.clientside("zoomed", Input("compare-maps", "relayoutData"))
PAGE.clientside("compare_sides", Input("compare-sides", "data"))
PAGE.clientside("compare_place", Input(places.select_id(ALL, ALL), "value"))
PAGE.clientside("compare_places", Output(places.select_id(ALL, ALL), "value"), SHOWN)
follow(PAGE, "view", "scale", "limits", "channel")
