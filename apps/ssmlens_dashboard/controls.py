"""Controls that write a field of the address."""

from collections.abc import Sequence

import dash_mantine_components as dmc
from dash.development.base_component import Component

from ssmlens_dashboard.page import control_id


def segments(field: str, options: Sequence[tuple[str, str]]) -> Component:
    """A row of choices for a field: (value in the address, what the reader sees), the first one chosen at first."""
    return dmc.SegmentedControl(
        id=control_id(field),
        data=[{"value": value, "label": label} for value, label in options],
        value=options[0][0],
        size="xs",
    )
