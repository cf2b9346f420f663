"""The rows of selects on Compare, one for each place after the first.

The rows are built once and stay when the address changes, so an open list stays open. A view sets the choices; the
selected values follow the address in the browser (assets/compare.js).
"""

from typing import Any

import dash_mantine_components as dmc
from dash import Output, html
from dash.dependencies import Wildcard
from dash.development.base_component import Component

from ssmlens.plot.labels import visible
from ssmlens_dashboard.controls import choices
from ssmlens_dashboard.elements import attributes
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.views.compare import LETTERS, Side

_WIDTHS = {"capture": 240, "layer": 100, "prompt": 200}  # pixels
_NAME, _PROMPT = 48, 32  # characters of a capture's name and of a prompt


def rows() -> list[Component]:
    """Make a row for each possible place. The first has no selects: it is chosen at the top of the page."""
    first = html.Div(
        [html.B(LETTERS[0]), html.Span("chosen above", className="muted")], className="place"
    )
    return [first, *(_row(number) for number in range(1, len(LETTERS)))]


def outputs() -> list[Output]:
    """List the outputs of the rows that a view fills."""
    return [output for number in range(1, len(LETTERS)) for output in _outputs(number)]


def filled(opened: list[Side], library: Library) -> list[Any]:
    """Return the values of `outputs` for the places of a comparison.

    Args:
        opened: The places, the first one included.
        library: The captures to choose from.
    """
    captures = [(entry.id, visible(entry.name, _NAME)) for entry in library.entries("capture")]
    values = []
    for number in range(1, len(LETTERS)):
        if number < len(opened):
            values += _filled(opened[number], choices(captures), removable=len(opened) > 2)
        else:
            values += [True, *[[]] * len(_WIDTHS), "", True]
    return values


def _row(number: int) -> Component:
    letter = LETTERS[number]
    selects = [
        dmc.Select(
            id=select_id(number, part),
            data=[],
            allowDeselect=False,
            searchable=part != "capture",
            size="xs",
            w=width,
            **attributes(aria_label=part.capitalize()),
        )
        for part, width in _WIDTHS.items()
    ]
    remove = html.Button(
        "×",
        id=f"compare-remove-{number}",
        className="quiet",
        title=f"Remove {letter}",
        **attributes(data_remove=str(number), aria_label=f"Remove {letter}"),
    )
    notes = html.Span(id=f"compare-notes-{number}", className="muted")
    return html.Div(
        [html.B(letter), *selects, remove, notes],
        id=f"compare-place-{number}",
        className="place",
        hidden=True,
    )


def _outputs(number: int) -> list[Output]:
    return [
        Output(f"compare-place-{number}", "hidden"),
        *(Output(select_id(number, part), "data") for part in _WIDTHS),
        Output(f"compare-notes-{number}", "children"),
        Output(f"compare-remove-{number}", "hidden"),
    ]


def _filled(side: Side, captures: list[dict[str, str]], removable: bool) -> list[Any]:
    layers, prompts = [], []
    if side.scene is not None:
        capture = side.scene.capture
        layers = [(str(index), f"layer {index}") for index in capture.layers]
        prompts = [
            (str(number), f"prompt {number} {visible(text, _PROMPT)}")
            for number, text in enumerate(capture.prompt_texts)
        ]
    return [
        False,
        *(captures, choices(layers), choices(prompts)),
        "; ".join(side.notes),
        not removable,
    ]


def select_id(number: int | Wildcard, part: str | Wildcard) -> dict[str, str | int | Wildcard]:
    """The id of the select for a part of a place: its capture, layer or prompt."""
    return {"type": "compare-place", "at": number, "part": part}
