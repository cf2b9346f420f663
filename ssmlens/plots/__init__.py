"""Figures of hidden attention (arrays and labels in, plotly figures out) and the report page."""

from ssmlens.plots.closure import closure_figure
from ssmlens.plots.heatmap import attention_heatmap
from ssmlens.plots.lag_profile import lag_profile
from ssmlens.plots.raster import causal
from ssmlens.plots.report import report
from ssmlens.plots.scales import SCALES, Scale
from ssmlens.plots.scores import score_heatmap
from ssmlens.plots.theme import DARK, LIGHT, Theme, template

__all__ = [
    "DARK",
    "LIGHT",
    "SCALES",
    "Scale",
    "Theme",
    "attention_heatmap",
    "causal",
    "closure_figure",
    "lag_profile",
    "report",
    "score_heatmap",
    "template",
]
