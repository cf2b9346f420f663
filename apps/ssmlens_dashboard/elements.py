"""Components shared by the pages."""

from typing import Any

from dash import dcc, html
from dash.development.base_component import Component


def figure_card(
    identifier: str,
    title: str,
    *children: Component,
    figure: Any = None,
    height: int | str | None = None,
) -> Component:
    """Make a card: a figure, its title (id "…-title") and its SVG and PNG downloads.

    Args:
        identifier: Id of the dcc.Graph.
        title: The title.
        *children: Controls beside the title.
        figure: The initial figure; by default empty until a view fills it.
        height: In pixels or as a CSS length; by default the figure's own.
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
            form.upper(), className="quiet", **attributes(data_export=form, data_figure=identifier)
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


def none_found(identifier: str, things: str, advice: str, commands: str) -> Component:
    """Make the message of an empty page, hidden initially.

    Args:
        identifier: Its id.
        things: What the page shows, such as "Training runs".
        advice: A sentence that introduces the commands.
        commands: The commands to type, one per line.
    """
    message = f"{things}: none found in the paths given to this dashboard."
    return html.Div(
        [html.P(message, className="what"), html.P(advice), html.Pre(commands)],
        id=identifier,
        className="trouble",
        hidden=True,
    )


def attributes(**values: str) -> dict[str, Any]:
    """Write data-… and aria-… attributes with underscores: `html.A(..., **attributes(aria_label="Next"))`."""
    return {name.replace("_", "-"): value for name, value in values.items()}
