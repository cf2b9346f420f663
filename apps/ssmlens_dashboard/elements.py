"""Pieces that every page is made of."""

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


def none_found(identifier: str, things: str, advice: str, commands: str) -> Component:
    """What stands, hidden at first, where there is nothing that a page can show.

    Args:
        identifier: Its id.
        things: What was looked for.
        advice: What the commands do.
        commands: What to type to have some, a command a line.
    """
    said = f"{things}: none found in what this dashboard was opened on."
    return html.Div(
        [html.P(said, className="what"), html.P(advice), html.Pre(commands)],
        id=identifier,
        className="trouble",
        hidden=True,
    )


def more(**attributes: str) -> dict[str, Any]:
    """Attributes data-… and aria-…, an underscore for each hyphen: `html.A(..., **more(aria_label="Next"))`."""
    return {name.replace("_", "-"): value for name, value in attributes.items()}
