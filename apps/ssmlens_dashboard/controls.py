"""Controls that write a field of the address."""

from collections.abc import Sequence

import dash_mantine_components as dmc
from dash import Input, Output
from dash.development.base_component import Component

from ssmlens_dashboard.page import Page, control_id, here_id


def segments(field: str, options: Sequence[tuple[str, str]]) -> Component:
    """A row of choices for a field: (value in the address, what the reader sees), the first one chosen at first."""
    return dmc.SegmentedControl(
        id=control_id(field),
        data=[{"value": value, "label": label} for value, label in options],
        value=options[0][0],
        size="xs",
    )


def follow(page: Page, *fields: str) -> None:
    """Keep two or more controls of a page at what the address says, whatever changed it."""
    outputs = (Output(control_id(field), "value") for field in fields)
    page.clientside("controls", *outputs, Input(here_id(page.name), "data"))
