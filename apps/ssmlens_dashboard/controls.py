"""Controls that write a field of the address, and follow it.

A view never sets a control's value: its answer may belong to an address that the reader has left, and a control that is
set writes the address. Nor does a control wait for an answer: it follows `SHOWN`, which is nobody's output. What can be
chosen (`data`, `max`) is the view's to say, or the layout's.

Pages that need no capture are the exception: a view of theirs makes their controls anew, each with its value
(`own_control_id`), and `write_fields` writes the address.
"""

from collections.abc import Sequence

import dash_mantine_components as dmc
from dash import Input, Output, dcc, html
from dash.dependencies import ALL, Wildcard
from dash.development.base_component import Component

from ssmlens_dashboard.elements import more
from ssmlens_dashboard.page import Page, control_id

SHOWN = Input("shown", "data")
"""Changes, in the browser, with the address and with what the server says it stands for."""


def segments(field: str, options: Sequence[tuple[str, str]]) -> Component:
    """A row of choices for a field: (value in the address, what the reader sees), the first one chosen at first."""
    return dmc.SegmentedControl(
        id=control_id(field), data=choices(options), value=options[0][0], size="xs"
    )


def choices(options: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Options of a select or a row of choices, as their `data`."""
    return [{"value": value, "label": label} for value, label in options]


def slider(field: str, count: int) -> Component:
    """A slider through the numbers from 0 to `count` − 1, one at a time, its name before it."""
    bar = dcc.Input(  # the browser's own: its value may be text, which is what the address holds
        id=control_id(field),
        type="range",
        min=0,
        max=max(count - 1, 1),
        step=1,
        value=0,
        style={"width": 280, "border": "none", "--Dash-Fill-Interactive-Strong": "var(--accent)"},
    )
    return html.Label([field.capitalize(), bar], className="place muted")


def following(field: str) -> tuple[Output, Input]:
    """What `ssmlens.controls` in assets/ is bound to, to keep the control of a field at what the address says."""
    return Output(control_id(field), "value"), SHOWN


def follow(page: Page, *fields: str) -> None:
    """Keep a page's controls at what the address says, whatever changed it.

    A field has one control, on however many pages, and one callback for them all: see `shell.connect_scripts`.
    """
    for field in fields:
        page.clientside("controls", *following(field))


def own_control_id(page: str, field: str | Wildcard) -> dict[str, str | Wildcard]:
    """The id of a control that a page's view makes anew with its value."""
    return {"type": f"{page}-control", "field": field}


def own_select(
    page: str,
    field: str,
    options: Sequence[tuple[str, str]],
    value: str,
    width: int,
    *,
    searchable: bool = False,
) -> Component:
    """A select that a page's view makes anew.

    Args:
        page: Name of the page.
        field: The field of the address that it writes.
        options: (value in the address, what the reader sees) of each choice.
        value: The one chosen.
        width: In pixels.
        searchable: Whether the reader can type to find a choice.
    """
    return dmc.Select(
        id=own_control_id(page, field),
        data=choices(options),
        value=value,
        allowDeselect=False,
        searchable=searchable,
        size="xs",
        w=width,
        **more(aria_label=field.capitalize()),
    )


def write_fields(page: Page) -> None:
    """Let the controls that a page's view makes anew write the address."""
    page.clientside("write_fields", Input(own_control_id(page.name, ALL), "value"))
