"""The report: one self-contained HTML page with every layer's map and mask."""

import base64
import dataclasses
import hashlib
import html
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.offline
import xarray as xr
from markupsafe import Markup

from ssmlens.files.new import write_file
from ssmlens.files.strict_json import without_nan
from ssmlens.plot.closure_errors import closure_figure
from ssmlens.plot.labels import block_labels, visible
from ssmlens.plot.lags import lag_profile
from ssmlens.plot.packing import script_json
from ssmlens.plot.picture import palette
from ssmlens.plot.score_table import score_heatmap
from ssmlens.plot.sections import (
    closure_table,
    header,
    mean_scores,
    ranking_order,
    ranking_table,
    score_table,
    tolerances,
)
from ssmlens.plot.sources import ReportSource
from ssmlens.plot.theme import DARK, LIGHT, Theme
from ssmlens.plot.tiles import Tile, tile_spec
from ssmlens.plot.views import Plan, layer_views, plan
from ssmlens.runs.transplant_evidence import TRANSPLANT_EVIDENCE
from ssmlens.scores import SCORES, Ranking, compute
from ssmlens.scores import rank as rank_scores
from ssmlens.scores.chance import chance_levels
from ssmlens.scores.reading import Reading, is_softmax
from ssmlens.store.verdict import CLOSURE, MAP_CLOSURE, Verdict


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """The page of a capture.

    Attributes:
        model: Name of the model.
        layers: Number of layers shown.
        html: The page, some megabytes.
    """

    model: str
    layers: int
    html: str

    def save(self, path: Path | str) -> Path:
        """Write the page to a file completely or not at all; return the path. Raises SsmlensError on failure."""
        write_file(Path(path), self.html.encode())
        return Path(path)

    def __repr__(self) -> str:
        return (
            f"<Report of {self.model}: {self.layers} layers, {len(self.html) / 1e6:.1f} MB; "
            "write it with .save('report.html')>"
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


def report(
    capture: ReportSource,
    *,
    scores: xr.Dataset | None = None,
    ranking: Ranking | None = None,
    top: int = 3,
) -> Report:
    """Build the report of a capture: one HTML page for any browser, which loads nothing else.

    Long prompts are shown in blocks of tokens. The `top` layers have the finest blocks and their stored channels. Of
    many prompts only the first are shown. The page says when blocks or prompts are reduced.

    Args:
        capture: An open capture (`ssmlens.open_capture`).
        scores: The result of `ssmlens.scores.compute`; computed by default.
        ranking: The result of `ssmlens.rank_layers`; computed from the scores by default.
        top: How many of the best layers to show most finely.

    Returns:
        The page; write it with `.save("report.html")`.

    Raises:
        UsageError: No score can rank the layers of this capture.
    """
    scores = compute(capture) if scores is None else scores
    ranking = rank_scores(scores) if ranking is None else ranking
    means = mean_scores(scores)
    verdicts = {index: capture.layer(index).verdict for index in capture.layers}
    layout = plan(capture, [row.layer for row in ranking.rows if row.rank is not None][:top])
    data = _data(capture, ranking, verdicts, layout)
    data["palettes"] = {
        name: [list(map(int, colour)) for colour in palette(signed=signed)]
        for name, signed in (("signed", True), ("unsigned", False))
    }
    data["figures"] = {
        t.name: _figures(means, chance_levels(scores), verdicts, t) for t in (LIGHT, DARK)
    }
    folder = importlib.resources.files("ssmlens.plot") / "page"
    plotly_js, page_js = plotly.offline.get_plotlyjs(), (folder / "report.js").read_text("utf-8")
    model = str(capture.attributes.get("model", "capture"))
    page = _template("report.html").render(
        title=f"{model} · ssmlens",
        script_hashes=Markup(" ".join(_hash(script) for script in (plotly_js, page_js))),
        css=Markup((folder / "report.css").read_text("utf-8")),
        light=Markup(LIGHT.css_variables()),
        dark=Markup(DARK.css_variables()),
        header=header(capture, verdicts),
        order=ranking_order(ranking),
        evidence=TRANSPLANT_EVIDENCE,
        ranking=ranking_table(ranking, verdicts, capture),
        scores=score_table(scores, means),
        closure=closure_table(verdicts, capture),
        tolerances=tolerances(verdicts),
        data=Markup(script_json(data)),
        plotly=Markup(plotly_js),
        script=Markup(page_js),
    )
    return Report(model, len(capture.layers), page)


def _template(name: str) -> jinja2.Template:
    """Load a template of page/: all text is escaped, and an undefined name is an error."""
    loader = jinja2.PackageLoader("ssmlens.plot", "page")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(name)


def _data(
    capture: ReportSource, ranking: Ranking, verdicts: Mapping[int, Verdict], layout: Plan
) -> dict[str, Any]:
    """Collect the data of report.js, except the figures."""
    ranked = {row.layer: row for row in ranking.rows}
    layers = []
    for index, verdict in verdicts.items():
        row = ranked.get(index)
        layers.append(
            {
                "layer": index,
                "softmax": is_softmax(capture.layer(index)),
                "maps": len(capture.layer(index).maps),
                "rank": row.rank if row else None,
                "scores": {n: row.scores[n] for n in ranking.by} if row else {},
                "chance": {n: row.chance[n] for n in ranking.by if n in row.chance} if row else {},
                "verdict": verdict.answer,
                "reason": verdict.reason,
                "closure": verdict.errors.get(CLOSURE),
                "map_closure": verdict.errors.get(MAP_CLOSURE),
                "first_lag": Reading(capture, capture.layer(index)).first_lag,
                "views": layer_views(capture, index, layout),
            }
        )
    blocks = {
        prompt: {
            v["block"]
            for la in layers
            for v in la["views"]
            if v["prompt"] == prompt and "block" in v
        }
        for prompt in range(layout.prompts)
    }
    prompts = []
    for prompt in range(layout.prompts):
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
    return without_nan(data)


def _figures(
    means: dict[str, list[float]],
    chance: Mapping[str, str],
    verdicts: Mapping[int, Verdict],
    theme: Theme,
) -> dict[str, Any]:
    """Draw the figures of the page in one theme; report.js fills those of a layer."""
    layers = list(verdicts)
    names = [n for n in means if n in SCORES and not np.isnan(means[n]).all()]
    values = np.array([means[n] for n in names]).reshape(len(names), len(layers))
    nothing = Tile(np.zeros((1, 1), np.float32), (0, 1), (0, 1), 1)
    figures = {
        "scores": score_heatmap(values, names, layers, chance=chance, theme=theme),
        "closure": closure_figure(verdicts, theme=theme),
        "lags": lag_profile(np.zeros(1), theme=theme),
    }
    maps = {
        name: tile_spec(nothing, [""], signed=signed, hover="tokens", theme=theme)
        for name, signed in (("signed", True), ("unsigned", False))
    }
    return {name: _plain(figure) for name, figure in figures.items()} | without_nan(maps)


def _plain(figure: go.Figure) -> dict[str, Any]:
    return without_nan(figure.to_plotly_json())


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
