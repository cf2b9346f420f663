"""Scores of how attention-like a layer is, and the ranking of layers by them.

A score is one file here, registered in `SCORES`. `compute` returns all scores as a Dataset, `rank_layers` a ranking of
layers, `rank_heads` a ranking of heads.
"""

from ssmlens.scores.heads import rank_heads
from ssmlens.scores.order import rank, rank_layers
from ssmlens.scores.ranking import RankedLayer, Ranking
from ssmlens.scores.score import SCORES, Measured, Score
from ssmlens.scores.table import compute, summary

__all__ = [
    "SCORES",
    "Measured",
    "RankedLayer",
    "Ranking",
    "Score",
    "compute",
    "rank",
    "rank_heads",
    "rank_layers",
    "summary",
]
