"""The report: one HTML page that needs nothing else, with every layer's map and mask."""

import base64
import hashlib
import html
import importlib.resources
import string
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.offline
import xarray as xr

from ssmlens.plots.closure import closure_figure
from ssmlens.plots.heatmap import attention_heatmap
from ssmlens.plots.labels import block_labels, visible
from ssmlens.plots.lag_profile import lag_profile
from ssmlens.plots.packing import script_json
from ssmlens.plots.proofs import ERRORS, Proof, proofs, tolerances
from ssmlens.plots.scores import score_heatmap
from ssmlens.plots.sections import header, mean_scores, proof_table, ranking_table, score_table
from ssmlens.plots.sources import ReportSource
from ssmlens.plots.theme import DARK, LIGHT, Theme
from ssmlens.plots.views import Plan, layer_views, plan
from ssmlens.scores import SCORES, Ranking, compute
from ssmlens.scores import rank as rank_scores
from ssmlens.scores.reading import Reading


def report(
    capture: ReportSource,
    *,
    scores: xr.Dataset | None = None,
    ranking: Ranking | None = None,
    top: int = 3,
) -> str:
    """Build the report of a capture as one HTML page that any browser opens and that loads nothing.

    Long captures are shown in blocks of tokens, the `top` layers most finely and with their stored
    channels; captures of many prompts by their first ones. The page says so where it is the case.

    Args:
        capture: An open capture (`ssmlens.open_capture`).
        scores: What `ssmlens.scores.compute` returned; computed when absent.
        ranking: What `ssmlens.rank_layers` returned; computed from the scores when absent.
        top: How many of the best layers are shown most finely.

    Raises:
        UsageError: Nothing can rank the layers of this capture.
    """
    scores = compute(capture) if scores is None else scores
    ranking = rank_scores(scores) if ranking is None else ranking
    means, proven = mean_scores(scores), proofs(capture)
    shown = plan(capture, [row.layer for row in ranking.rows if row.rank is not None][:top])
    data = _data(capture, ranking, proven, shown)
    data["figures"] = {t.name: _figures(capture, means, proven, t) for t in (LIGHT, DARK)}
    files = importlib.resources.files("ssmlens.plots") / "page"
    plotly_js, page_js = plotly.offline.get_plotlyjs(), (files / "report.js").read_text("utf-8")
    return string.Template((files / "report.html").read_text("utf-8")).substitute(
        title=html.escape(f"{capture.attributes.get('model', 'capture')} · ssmlens"),
        script_hashes=" ".join(_hash(script) for script in (plotly_js, page_js)),
        css=(files / "report.css").read_text("utf-8"),
        light=LIGHT.css_variables(),
        dark=DARK.css_variables(),
        header=header(capture, proven),
        ranking=ranking_table(ranking, proven),
        scores=score_table(scores, means),
        proofs=proof_table(proven),
        data=script_json(data),
        plotly=plotly_js,
        script=page_js,
    )


def _data(
    capture: ReportSource, ranking: Ranking, proven: list[Proof], shown: Plan
) -> dict[str, Any]:
    """What report.js reads, apart from the figures."""
    ranked = {row.layer: row for row in ranking.rows}
    layers = []
    for proof in proven:
        row = ranked.get(proof.layer)
        layers.append(
            {
                "layer": proof.layer,
                "kind": proof.kind,
                "rank": row.rank if row else None,
                "scores": {n: row.scores[n] for n in ranking.by} if row else {},
                "ok": proof.ok,
                "problem": proof.problem,
                "closure": proof.errors["closure_error"],
                "first_lag": Reading(capture, capture.layer(proof.layer)).first_lag,
                "views": layer_views(capture, proof.layer, shown),
            }
        )
    blocks = {
        prompt: {
            v["block"]
            for la in layers
            for v in la["views"]
            if v["prompt"] == prompt and "block" in v
        }
        for prompt in range(shown.prompts)
    }
    prompts = []
    for prompt in range(shown.prompts):
        tokens = list(capture.token_strings(prompt))[: int(capture.length[prompt])]
        prompts.append(
            {
                "title": f"{prompt}: {visible(capture.prompt_texts[prompt])}",
                "labels": {str(b): block_labels(tokens, b) for b in sorted(blocks[prompt])},
            }
        )
    data = {
        "layers": layers,
        "prompts": prompts,
        "all_prompts": len(capture.prompt_texts),
    }
    return _without_nan(data)


def _figures(
    capture: ReportSource, means: dict[str, list[float]], proven: list[Proof], theme: Theme
) -> dict[str, Any]:
    """The figures of the page in one theme; those of a layer are empty, for report.js to fill."""
    layers = [p.layer for p in proven]
    errors = {name: np.array([p.errors[name] for p in proven]) for name in ERRORS}
    names = [n for n in means if n in SCORES and not np.isnan(means[n]).all()]
    values = np.array([means[n] for n in names]).reshape(len(names), len(layers))
    nothing = np.zeros((1, 1), np.float32)
    figures = {
        "scores": score_heatmap(values, names, layers, theme=theme),
        "proofs": closure_figure(errors, layers, tolerances(capture), theme=theme),
        "signed": attention_heatmap(nothing, [""], theme=theme),
        "unsigned": attention_heatmap(nothing, [""], signed=False, theme=theme),
        "lags": lag_profile(np.zeros(1), theme=theme),
    }
    return {name: _plain(figure) for name, figure in figures.items()}


def _plain(figure: go.Figure) -> dict[str, Any]:
    return _without_nan(figure.to_plotly_json())


def _without_nan(value: Any) -> Any:
    """Plain values that strict JSON can hold: NaN and infinities become None."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _without_nan(value.tolist())
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, np.generic):
        return _without_nan(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
