"""Tables of ag-grid in the page's colours: the card, its columns and its cells."""

from collections.abc import Sequence
from typing import Any

import dash_ag_grid as dag
from dash import html
from dash.development.base_component import Component

Column = dict[str, Any]

_ROW = 28  # pixels
_AROUND = 46  # the header, and a scroll bar below
_TALLEST = 400
_OPTIONS = {
    "suppressCellFocus": True,
    "animateRows": False,
    "rowHeight": _ROW,
    "headerHeight": _ROW,
    "theme": {
        "function": "themeQuartz.withParams({backgroundColor: 'var(--surface)', foregroundColor: 'var(--ink)', "
        "headerBackgroundColor: 'var(--surface)', headerTextColor: 'var(--muted)', borderColor: 'var(--line)', "
        "accentColor: 'var(--accent)', fontFamily: 'inherit', fontSize: 12, spacing: 4, wrapperBorder: false})"
    },
}


def table_card(identifier: str, title: str, *children: Component) -> Component:
    """Make a table with a title. Views fill `columnDefs`, `rowData` (each row has an `id`) and `style` (`height_of`).

    Args:
        identifier: Id of the table.
        title: The title.
        *children: Components between title and table.
    """
    table = dag.AgGrid(
        id=identifier,
        columnDefs=[],
        rowData=[],
        getRowId="params.data.id",
        dashGridOptions=_OPTIONS,
        className="grid",
        style=height_of([]),
    )
    head = html.Div([html.H2(title)], className="card-head")
    return html.Section([head, *children, table], className="card")


def height_of(rows: Sequence[object]) -> dict[str, int]:
    """Return the `style` of a table: as high as its rows, up to a height at which it scrolls."""
    return {"height": min(_TALLEST, _AROUND + _ROW * max(1, len(rows)))}


def columns(*definitions: Column) -> list[Column]:
    """Make columns sortable and resizable. The default header is the name of the field."""
    every = {"sortable": True, "resizable": True}
    return [{"headerName": column["field"], **every, **column} for column in definitions]


def numbers(form: str = ".3~g") -> Column:
    """What makes a column one of numbers, in d3's format; a cell without one is empty."""
    shown = f"params.value == null ? '' : d3.format('{form}')(params.value)"
    return {"type": "rightAligned", "valueFormatter": {"function": shown}}
