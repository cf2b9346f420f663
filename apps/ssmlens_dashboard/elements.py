"""Pieces that every page is made of."""

from typing import Any

import dash_ag_grid as dag
from dash import dcc, html
from dash.development.base_component import Component

GRID = {
    "suppressCellFocus": True,
    "animateRows": False,
    "theme": {
        "function": "themeQuartz.withParams({backgroundColor: 'var(--surface)', foregroundColor: 'var(--ink)', "
        "headerBackgroundColor: 'var(--surface)', headerTextColor: 'var(--muted)', borderColor: 'var(--line)', "
        "accentColor: 'var(--accent)', fontFamily: 'inherit', fontSize: 12, spacing: 4, wrapperBorder: false})"
    },
}
"""Options of every ag-grid table: the page's own colours."""


def figure_card(
    identifier: str,
    title: str,
    *children: Component,
    figure: Any = None,
    height: int | str | None = None,
) -> Component:
    """A figure with its title (id "…-title") and its downloads as SVG and PNG.

    Args:
        identifier: Id of the dcc.Graph.
        title: What it shows.
        *children: Controls beside the title.
        figure: A figure to start with; views fill it otherwise.
        height: In pixels, or as CSS says; the figure's own otherwise.
    """
    graph = dcc.Graph(
        id=identifier,
        figure=figure
        or {"data": [], "layout": {"xaxis": {"visible": False}, "yaxis": {"visible": False}}},
        config={"displayModeBar": False, "responsive": True, "doubleClick": False},
        style={} if height is None else {"height": height},
    )
    exports = [
        html.Button(
            form.upper(), className="quiet", **more(data_export=form, data_figure=identifier)
        )
        for form in ("svg", "png")
    ]
    head = html.Div(
        [
            html.H2(title, id=f"{identifier}-title"),
            *children,
            html.Span(exports, className="exports"),
        ],
        className="card-head",
    )
    return html.Section([head, graph], className="card")


def table_card(identifier: str, title: str, *children: Component) -> Component:
    """A table of ag-grid with its title; views fill `columnDefs` and `rowData`, whose rows bear an `id`.

    Args:
        identifier: Id of the table.
        title: What its rows are.
        *children: What stands between title and table.
    """
    table = dag.AgGrid(
        id=identifier,
        columnDefs=[],
        rowData=[],
        getRowId="params.data.id",
        dashGridOptions=GRID,
        className="grid",
    )
    head = html.Div([html.H2(title)], className="card-head")
    return html.Section([head, *children, table], className="card")


def more(**attributes: str) -> dict[str, Any]:
    """Attributes data-… and aria-…, an underscore for each hyphen: `html.A(..., **more(aria_label="Next"))`."""
    return {name.replace("_", "-"): value for name, value in attributes.items()}
