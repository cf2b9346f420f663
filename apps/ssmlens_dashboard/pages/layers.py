"""Layers: an overview of the model. Which layers look back, the verdicts on their maps, and thumbnails."""

import math
from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
import numpy as np
import plotly.graph_objects as go
import xarray as xr
from dash import Input, Output, dcc, html
from dash.development.base_component import Component

from ssmlens.errors import SsmlensError
from ssmlens.files.strict_json import without_nan
from ssmlens.plot.score_table import score_heatmap
from ssmlens.plot.selection import maps_of
from ssmlens.runs.transplant_evidence import TRANSPLANT_EVIDENCE
from ssmlens.scores import SCORES, Ranking, rank, summary
from ssmlens.scores.chance import chance_levels
from ssmlens.store import Layer
from ssmlens.store.verdict import CLOSURE, MAP_CLOSURE, Verdict
from ssmlens_dashboard.controls import choices, follow
from ssmlens_dashboard.elements import attributes, figure_card
from ssmlens_dashboard.page import Page, control_id
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.tables import Column, columns, height_of, numbers, table_card
from ssmlens_dashboard.views.scores import scores

_FIRST, _LATER = 0.1, 0.6  # seconds of scoring per answer: the first one and later ones
_IN_RED = {"failed": "!params.data.passed"}
_REASON = 240  # pixels
_MAP_CLOSURE = "the difference of closure_error, relative to what the map alone adds to the output"
_FACTS = ("model", "revision", "model_digest", "dtype", "backend", "device")


def layout(scene: Scene) -> Component:
    """Build the facts, the scores, every block of the model, and the ranking."""
    return html.Div(
        [
            dcc.Store(id="layers-asked"),
            dcc.Store(id="layers-unscored"),
            _facts(scene),
            figure_card(
                "layers-scores",
                "Scores by layer",
                html.Span(
                    "colour: each row's order of the layers, from last to first",
                    className="muted",
                ),
                height=270,
            ),
            dcc.Store(id="layers-blocks-facts", data=blocks(scene)),
            html.Div(id="layers-blocks"),
            table_card(
                "layers-table",
                "Ranking",
                html.Div([_by(scene), html.Span(id="layers-notes")], className="toolbar muted"),
                _evidence(scene),
                html.Div(id="layers-progress", className="muted"),
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
    Output("layers-table", "style"),
    also=(Input("layers-asked", "data"),),
)
def ranked(scene: Scene, asked: int | None = None) -> tuple[Any, ...]:
    """Draw figure and table of the layers scored so far. The browser asks again while layers are unscored."""
    capture = scene.capture
    scored = scores(capture, _FIRST if asked is None else _LATER)
    unscored = len(capture.layers) - scored.sizes["layer"]
    progress = f"{unscored} layers not scored yet" if unscored else ""
    try:
        ranking = rank(scored, scene.address.by)
        notes = "; ".join([_ordered_by(ranking), *ranking.notes])
        ranked_by, rows = table(ranking, scene)
    except SsmlensError as error:
        notes, ranked_by, rows = str(error), [], []
    return heatmap(scored, scene), ranked_by, rows, notes, progress, unscored, height_of(rows)


def _by(scene: Scene) -> Component:
    """Build the select for the order of the ranking."""
    names = [("", "the default order"), *((name, name) for name in SCORES)]
    return dmc.Select(
        id=control_id("by"),
        data=choices(names),
        value=scene.address.by or "",
        allowDeselect=False,
        searchable=True,
        size="xs",
        w=220,
        **attributes(aria_label="Order by"),
    )


def _evidence(scene: Scene) -> Component:
    """Say what is known about the use of the ranking, and where the students of a teacher of one's own are."""
    runs = dcc.Link("Runs", href=scene.address.replace(page="runs", by=None).href)
    measure = [
        " ssmlens validate-ranking measures it for your teacher; its students are on the page "
    ]
    return html.P([TRANSPLANT_EVIDENCE, *measure, runs, "."], className="muted")


def heatmap(scored: xr.Dataset, scene: Scene) -> go.Figure:
    """Draw scores × layers, without rows that have no value."""
    means = summary(scored).sel(statistic="mean")
    names = [name for name in map(str, means.data_vars) if means[name].notnull().any()]
    values = np.array([means[name].values for name in names], dtype=float).reshape(len(names), -1)
    layers, chance = scored["layer"].values.tolist(), chance_levels(scored)
    figure = score_heatmap(values, names, layers, chance=chance, theme=scene.theme)
    return figure.update_layout(height=None, margin={"t": 4, "b": 40})


def table(ranking: Ranking, scene: Scene) -> tuple[list[Column], list[dict[str, Any]]]:
    """Columns and rows of the ranking for ag-grid: plain text and numbers; the verdict comes before the scores."""
    names = list(ranking.rows[0].scores) if ranking.rows else []
    reasons = [row.reason for row in ranking if row.reason]
    reason = {"field": "reason", "width": _REASON, "tooltipField": "reason"}
    definitions = columns(
        {"field": "rank", **numbers(), "pinned": "left", "width": 66},
        {"field": "layer", "pinned": "left", "type": "rightAligned", "width": 72},
        {"field": "kind", "width": 96},
        {"field": "closure", "width": 150, "tooltipField": "closure", "cellClassRules": _IN_RED},
        *([reason] if reasons else []),
        {"field": "closure_error", **numbers(), "width": 120},
        {"field": "map_closure", **numbers(), "width": 120, "headerTooltip": _MAP_CLOSURE},
        *({"field": n, **numbers(), **_of_score(n, ranking.chance_of(n))} for n in names),
    )
    rows = [
        {
            "id": str(row.layer),
            "rank": row.rank,
            "layer": row.layer,
            "kind": scene.capture.layer(row.layer).kind,
            "closure": verdict(scene.capture.layer(row.layer)),
            "passed": scene.capture.layer(row.layer).verdict.believed,
            "reason": row.reason,
            "closure_error": without_nan(row.closure_error),
            "map_closure": without_nan(row.map_closure),
            **{name: without_nan(row.scores[name]) for name in names},
        }
        for row in ranking
    ]
    return definitions, rows


def verdict(layer: Layer) -> str:
    """Say whether a layer's maps close, and if not, why."""
    result = layer.verdict
    return (
        result.reason or _closes(result)
        if result.answer != "not resolved"
        else f"not resolved: {result.reason}"
    )


def _closes(found: Verdict) -> str:
    """ "closes (≤ 1e-04)": the most that the closure error may be."""
    return (
        f"closes (≤ {found.tolerances[CLOSURE]:.0e})" if CLOSURE in found.tolerances else "closes"
    )


def blocks(scene: Scene) -> list[dict[str, Any]]:
    """List every block of the model for assets/layers.js: captured layers with thumbnails, others by kind."""
    captured = scene.capture.layers
    kinds = scene.capture.block_kinds
    return [
        _captured(scene, index, kind) if index in captured else {"index": index, "kind": kind}
        for index, kind in enumerate(kinds)
    ]


def _captured(scene: Scene, index: int, kind: str) -> dict[str, Any]:
    layer = scene.capture.layer(index)
    views = maps_of(layer)
    maps_address = scene.address.replace(layer=index, page="maps", zoom=None, query=None, by=None)
    return {
        "index": index,
        "kind": kind,
        "verdict": verdict(layer),
        "bad": not layer.verdict.believed,
        "digest": layer.digest[:16],  # a new picture gets a new address
        "views": {view: maps_address.replace(view=view).search for view in views},
    }


def _facts(scene: Scene) -> Component:
    capture = scene.capture
    layers = [capture.layer(index) for index in capture.layers]
    failed = [str(layer.index) for layer in layers if not layer.verdict.believed]
    worst = {name: _worst(layers, name) for name in (CLOSURE, MAP_CLOSURE)}
    errors = ", ".join(f"{name} {error:.2g}" for name, error in worst.items() if error == error)
    verdict_line = (
        html.Span(f"✗ does not close: layer {', '.join(failed)}", className="failed")
        if failed
        else html.Span(
            "✓ every layer reproduces what the model computed" + (f" ({errors})" if errors else ""),
            className="ok",
        )
    )
    facts = {name: str(capture.attributes.get(name) or "") for name in _FACTS}
    spans = [
        html.Span(text if len(text) < 40 else f"{text[:12]}…", title=f"{name}: {text}")
        for name, text in facts.items()
        if text
    ]
    tokens = int(capture.length[scene.address.prompt])
    return html.Div(
        [*spans, html.Span(f"{len(capture.layers)} layers, {tokens} tokens"), verdict_line],
        className="facts",
    )


def _worst(layers: Sequence[Layer], name: str) -> float:
    """Return the largest known error over the layers; NaN if none is known."""
    errors = [layer.verdict.errors.get(name, math.nan) for layer in layers]
    return max((error for error in errors if not math.isnan(error)), default=math.nan)


def _ordered_by(ranking: Ranking) -> str:
    order = ranking.by[0] if len(ranking.by) == 1 else f"the mean rank of {', '.join(ranking.by)}"
    return f"ordered by {order}"


def _of_score(name: str, chance: str) -> dict[str, Any]:
    tooltip = name
    if name in SCORES:
        tooltip = f"{SCORES[name].description}; by chance: {chance or SCORES[name].chance_in_words}"
    return {"headerTooltip": tooltip, "width": 44 + 7 * len(name)}


follow(PAGE, "by")
PAGE.clientside(
    "blocks", Output("layers-blocks", "className"), Input("layers-blocks-facts", "data")
)
PAGE.clientside("ask_again", Input("layers-unscored", "data"))
PAGE.clientside(
    "open_layer", Input("layers-table", "cellClicked"), Input("layers-scores", "clickData")
)
