"""The figures of a capture: its scores and its closure errors."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ssmlens.errors import UsageError
from ssmlens.plot.closure_errors import closure_figure
from ssmlens.plot.finish import Length, finished
from ssmlens.plot.of_layers import ThemeName, theme_of
from ssmlens.plot.score_table import score_heatmap
from ssmlens.plot.sources import ReportSource
from ssmlens.scores import Ranking, compute, summary
from ssmlens.scores.chance import chance_levels

_WIDTH = 900


def scores(
    of: ReportSource | Ranking | xr.Dataset,
    *,
    title: str | None = None,
    size: tuple[Length | None, Length | None] = (None, None),
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw scores × layers: colour compares the layers within one score, the text is the value.

    Args:
        of: A capture, the ranking of `rank_layers` or `rank_heads`, or the Dataset of `ssmlens.scores.compute`.
        title: The title; None for none.
        size: Width and height.
        theme: "light" or "dark".

    Raises:
        UsageError: No layer has any score.
    """
    layers, values, chance = _of_ranking(of) if isinstance(of, Ranking) else _of_dataset(of)
    known = {name: row for name, row in values.items() if np.isfinite(row).any()}
    if not known:
        raise UsageError("no layer has a score to draw")
    table = np.array(list(known.values()), dtype=float)
    what = of.of if isinstance(of, Ranking) else "layer"
    figure = score_heatmap(
        table, list(known), layers, what=what, chance=chance, theme=theme_of(theme)
    )
    return finished(figure, title, size, (_WIDTH, int(figure.layout.height)), theme_of(theme))


def closure(
    capture: ReportSource,
    *,
    title: str | None = None,
    size: tuple[Length | None, Length | None] = (None, None),
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw the distance of each layer's recomputation from what it computed, and the tolerance.

    Args:
        capture: A capture.
        title: The title; None for none.
        size: Width and height.
        theme: "light" or "dark".
    """
    verdicts = {index: capture.layer(index).verdict for index in capture.layers}
    figure = closure_figure(verdicts, theme=theme_of(theme))
    return finished(figure, title, size, (_WIDTH, 320), theme_of(theme))


_Drawn = tuple[
    list[str] | list[int], Mapping[str, np.ndarray], Mapping[str, str]
]  # layers, scores, chance


def _of_ranking(ranking: Ranking) -> _Drawn:
    rows = sorted(ranking.rows, key=lambda row: (row.layer, row.operator or "", row.head or 0))
    names = list(rows[0].scores) if rows else []
    values = {n: np.array([r.scores[n] for r in rows]) for n in names}
    chance = {n: text for n in names if (text := ranking.chance_of(n))}
    return [r.label for r in rows], values, chance


def _of_dataset(of: ReportSource | xr.Dataset) -> _Drawn:
    scored = of if isinstance(of, xr.Dataset) else compute(of)
    means = summary(scored).sel(statistic="mean")
    values = {str(name): np.asarray(means[name].values, float) for name in means.data_vars}
    return scored["layer"].values.tolist(), values, chance_levels(scored)
