"""Layers: the model at a glance. Which layers look back, whether their maps may be believed, what they look like."""

import math
from typing import Any

import dash_ag_grid as dag
import numpy as np
import plotly.graph_objects as go
import xarray as xr
from dash import Input, Output, dcc, html
from dash.development.base_component import Component

from ssmlens.errors import SsmlensError
from ssmlens.names import ATTENTION, FINITE
from ssmlens.plots import score_heatmap
from ssmlens.plots.proofs import ERRORS, Proof
from ssmlens.scores import SCORES, Ranking, rank, summary
from ssmlens_dashboard.elements import GRID, figure_card, more
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.views.scores import proven, scores

_PATIENCE = 0.4  # seconds of scoring before the page shows what there is
_NOTHING = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
_FACTS = ("model", "revision", "model_digest", "dtype", "backend", "device")


def layout(scene: Scene) -> Component:
    """Facts, figure and table, then every block of the model."""
    return html.Div(
        [
            dcc.Store(id="layers-asked"),
            dcc.Store(id="layers-unscored"),
            _facts(scene),
            figure_card("layers-scores", "Scores by layer", height=270),
            html.Div(blocks(scene), className="blocks"),
            html.Section(
                [
                    html.Div(
                        [html.H2("Ranking"), html.Span(id="layers-progress", className="muted")],
                        className="card-head",
                    ),
                    html.Div(id="layers-notes", className="muted"),
                    dag.AgGrid(
                        id="layers-table",
                        columnDefs=[],
                        rowData=[],
                        getRowId="params.data.id",
                        dashGridOptions=GRID,
                        className="grid",
                    ),
                ],
                className="card",
            ),
        ]
    )


PAGE = Page(
    name="layers",
    title="Layers",
    order=1,
    layout=layout,
    rebuilt_by=("capture", "prompt", "theme"),
    data=lambda scene: scores(scene.capture, math.inf).drop_vars("reason"),
)


@PAGE.view(
    Output("layers-scores", "figure"),
    Output("layers-table", "columnDefs"),
    Output("layers-table", "rowData"),
    Output("layers-notes", "children"),
    Output("layers-progress", "children"),
    Output("layers-unscored", "data"),
    also=(Input("layers-asked", "data"),),
)
def ranked(scene: Scene, _asked: int | None = None) -> tuple[Any, ...]:
    """Figure and table of the layers scored so far, and how many are not: the browser asks again until none is."""
    capture = scene.capture
    scored = scores(capture, _PATIENCE)
    unscored = len(capture.layers) - scored.sizes["layer"]
    progress = f"{unscored} layers still to be scored" if unscored else ""
    try:
        ranking = rank(scored, scene.address.by)
        notes = "; ".join([_ordered_by(ranking), *ranking.notes])
        columns, rows = table(ranking, scene)
    except SsmlensError as error:
        notes, columns, rows = str(error), [], []
    return heatmap(scored, scene), columns, rows, notes, progress, unscored


def heatmap(scored: xr.Dataset, scene: Scene) -> go.Figure:
    """Scores × layers, rows that no layer has left out."""
    means = summary(scored).sel(statistic="mean")
    names = [name for name in map(str, means.data_vars) if means[name].notnull().any()]
    values = np.array([means[name].values for name in names], dtype=float).reshape(len(names), -1)
    figure = score_heatmap(values, names, scored["layer"].values.tolist(), theme=scene.theme)
    return figure.update_layout(height=None, margin={"t": 4, "b": 40})


def table(ranking: Ranking, scene: Scene) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Columns and rows of the ranking for ag-grid: plain text and numbers."""
    names = list(ranking.rows[0].scores) if ranking.rows else []
    stored = proven(scene.capture)
    number = {
        "valueFormatter": {
            "function": "params.value == null ? '' : d3.format('.3~g')(params.value)"
        },
        "type": "rightAligned",
    }
    columns = [
        {"field": "rank", **number, "pinned": "left", "width": 66},
        {"field": "layer", "pinned": "left", "type": "rightAligned", "width": 72},
        {"field": "kind", "width": 96},
        *({"field": name, **number, **_of_score(name)} for name in names),
        {"field": "closure_error", **number, "width": 120},
        {"field": "proof", "width": 150, "cellClassRules": {"failed": "params.value !== 'proven'"}},
        {"field": "reason", "flex": 1, "minWidth": 160, "tooltipField": "reason"},
    ]
    rows = [
        {
            "id": str(row.layer),
            "rank": row.rank,
            "layer": row.layer,
            "kind": scene.capture.layer(row.layer).kind,
            **{name: _plain(row.scores[name]) for name in names},
            "closure_error": _plain(row.closure_error),
            "proof": verdict(stored[row.layer], scene),
            "reason": row.reason,
        }
        for row in ranking
    ]
    named = [
        {"headerName": column["field"], "sortable": True, "resizable": True, **column}
        for column in columns
    ]
    return named, rows


def verdict(proof: Proof, scene: Scene) -> str:
    """Whether a layer's maps may be believed, and if not why."""
    layer = scene.capture.layer(proof.layer)
    if layer.finite != FINITE:
        why = str(layer.attributes.get("reason", ""))
        return f"{layer.finite} not finite" + (f": {why}" if why else "")
    if layer.kind == ATTENTION:
        return "as the model returned it"
    return "proven" if proof.ok else proof.problem


def blocks(scene: Scene) -> list[Component]:
    """Every block of the model: captured layers with their thumbnails, others by what they are."""
    stored = proven(scene.capture)
    kinds = scene.capture.block_kinds
    return [
        _thumbnails(scene, block, kind, stored[block])
        if block in stored
        else html.Div([html.B(str(block)), f" {kind}"], className="block other")
        for block, kind in enumerate(kinds)
    ]


def _thumbnails(scene: Scene, index: int, kind: str, proof: Proof) -> Component:
    layer = scene.capture.layer(index)
    views = ["map"] if layer.kind == ATTENTION else ["map", "mask"]
    there = scene.address.but(layer=index, page="maps", zoom=None, query=None, by=None)
    digest = layer.digest[:16]
    told = verdict(proof, scene)
    pictures = [
        dcc.Link(
            html.Img(
                src=_NOTHING,
                **more(data_picture=f"/thumbnail.png{there.but(view=view).search}&of={digest}"),
                alt=f"Layer {index}, attention {view}",
            ),
            href=there.but(view=view).href,
            title=f"Layer {index}: attention {view}",
        )
        for view in views
    ]
    bad = layer.finite != FINITE or (layer.kind != ATTENTION and not proof.ok)
    return html.Div(
        [
            html.Div(
                [
                    html.B(str(index)),
                    html.Span(f" {kind}", className="muted"),
                    html.Span("✗" if bad else "✓", className="failed" if bad else "ok", title=told),
                ],
                className="block-head",
            ),
            html.Div(pictures, className="pictures"),
            html.Div(told, className="failed") if bad else None,
        ],
        className="block bad" if bad else "block",
    )


def _facts(scene: Scene) -> Component:
    capture = scene.capture
    stored = [p for p in proven(capture).values() if capture.layer(p.layer).kind != ATTENTION]
    failed = [str(p.layer) for p in stored if not p.ok]
    worst = max((p.errors[ERRORS[0]] for p in stored), default=math.nan)
    verdict_line = (
        html.Span(f"✗ not proven: layer {', '.join(failed)}", className="failed")
        if failed
        else html.Span(
            f"✓ every layer reproduces what the model computed (closure {worst:.1e})",
            className="ok",
        )
    )
    told = [str(capture.attributes[name]) for name in _FACTS if capture.attributes.get(name)]
    shown = [html.Span(text if len(text) < 40 else f"{text[:12]}…", title=text) for text in told]
    tokens = int(capture.length[scene.address.prompt])
    return html.Div(
        [*shown, html.Span(f"{len(capture.layers)} layers, {tokens} tokens"), verdict_line],
        className="facts",
    )


def _ordered_by(ranking: Ranking) -> str:
    order = ranking.by[0] if len(ranking.by) == 1 else f"the mean rank of {', '.join(ranking.by)}"
    return f"ordered by {order}"


def _of_score(name: str) -> dict[str, Any]:
    described = SCORES[name].description if name in SCORES else name
    return {"headerTooltip": described, "width": 44 + 7 * len(name)}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


PAGE.clientside("ask_again", Input("layers-unscored", "data"))
PAGE.clientside(
    "open_layer", Input("layers-table", "cellClicked"), Input("layers-scores", "clickData")
)
