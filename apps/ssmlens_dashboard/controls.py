"""Controls that write a field of the address, and follow it.

A view never sets a control's value: the answer may belong to an address that the reader has left, and setting a control
writes the address. A control does not wait for an answer either: it follows `SHOWN`, which no callback outputs. Views
and layouts set only the choices (`data`, `max`).

Pages without a capture are the exception: their view rebuilds the controls with their values (`own_control_id`), and
`write_fields` writes the address.
"""

from collections.abc import Sequence

import dash_mantine_components as dmc
from dash import Input, Output, dcc, html
from dash.dependencies import ALL, Wildcard
from dash.development.base_component import Component

from ssmlens_dashboard.elements import attributes
from ssmlens_dashboard.page import Page, control_id

SHOWN = Input("shown", "data")
"""Changes in the browser with the address, and when the server has resolved the address."""


def segments(field: str, options: Sequence[tuple[str, str]]) -> Component:
    """Make a row of choices (value in the address, label) for a field; the first is selected initially."""
    return dmc.SegmentedControl(
        id=control_id(field), data=choices(options), value=options[0][0], size="xs"
    )


def choices(options: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Format options as the `data` of a select or a row of choices."""
    return [{"value": value, "label": label} for value, label in options]


def slider(field: str, count: int) -> Component:
    """Make a labelled slider over the numbers 0 to `count` − 1."""
    bar = dcc.Input(  # the browser's own slider: its value may be text, as in the address
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
    """Output and input of `ssmlens.controls` in assets/, which sets the control of a field from the address."""
    return Output(control_id(field), "value"), SHOWN


def follow(page: Page, *fields: str) -> None:
    """Keep a page's controls in step with the address.

    All pages share one callback for the control of a field: see `shell.connect_scripts`.
    """
    for field in fields:
        page.clientside("controls", *following(field))


def own_control_id(page: str, field: str | Wildcard) -> dict[str, str | Wildcard]:
    """The id of a control that a page's view rebuilds with its value."""
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
    """Make a select that a page's view rebuilds.

    Args:
        page: Name of the page.
        field: The address field that it writes.
        options: Each choice as (value in the address, label).
        value: The selected value.
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
        **attributes(aria_label=field.capitalize()),
    )


def write_fields(page: Page) -> None:
    """Let the controls that a page's view rebuilds write the address."""
    page.clientside("write_fields", Input(own_control_id(page.name, ALL), "value"))
