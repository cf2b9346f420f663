"""Rank layers by how attention-like they are: by one score, or by the mean rank of several."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy import stats

from ssmlens.errors import UsageError
from ssmlens.names import FINITE, LAYER, NONFINITE_WEIGHTS
from ssmlens.scores.effect import EFFECTS
from ssmlens.scores.ranking import RankedLayer, Ranking
from ssmlens.scores.reading import CaptureLike
from ssmlens.scores.score import SCORES
from ssmlens.scores.table import CHANCE, compute, summary

# Coordinates of a table of heads, whose dimension `layer` counts heads.
BLOCK, HEAD, OPERATOR = "block", "head", "operator"

TARGETED = ("copy_score", "induction_score")
"""Default order: the first of these that applies to the capture's prompts."""

STRUCTURAL = ("mask_ones", "bc_effective", "diagonal_sharpness")
"""Default order if no prompt has targets: what the paper observed in layers that copy (§6)."""


def rank_layers(
    capture: CaptureLike,
    by: str | Sequence[str] | None = None,
    top: int | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Rank a capture's layers, the most attention-like first; by an effect, the most important first.

    If the capture has effects, they are listed beside the scores, and a note says where they disagree.

    Args:
        capture: An open capture.
        by: A score, or several to order by their mean rank. None: `copy_score` or `induction_score` if the prompts
            have targets, else the mean rank of `mask_ones`, `bc_effective` and `diagonal_sharpness`.
        top: Keep only this many rows; None for all.
        progress: Called with (layers done, layers) after each layer.

    Raises:
        UsageError: A score is unknown, or none of the requested scores applies to this capture.
    """
    columns = dict.fromkeys([*_names(by), *TARGETED, *STRUCTURAL, *EFFECTS])
    return rank(compute(capture, columns, progress=progress), by, top)


def rank(
    scores: xr.Dataset, by: str | Sequence[str] | None = None, top: int | None = None
) -> Ranking:
    """Order layers by scores already computed: like `rank_layers`, from a Dataset that `compute` returned.

    If the Dataset has coordinates `block`, `head` and `operator`, its layers are heads.

    Ties share their mean rank and are sorted by block index. A layer without a value in a score of `by` is not ranked
    and comes after the ranked layers; layers with non-finite weights come last.
    """
    if top is not None and top < 1:
        raise UsageError(f"top is {top}: it must be at least 1")
    statistics = summary(scores)
    means = statistics.sel(statistic="mean")
    present = [name for name in _score_names(scores) if scores[name].notnull().any()]
    order, notes = _order(scores, _names(by), present)
    broken = scores["finite"].values == NONFINITE_WEIGHTS
    values = np.stack([_sign(name) * means[name].values for name in order])
    rankable = np.isfinite(values).all(axis=0) & ~broken

    ranks = np.full(len(rankable), np.inf)
    mean_rank = np.mean([_ranks(row[rankable]) for row in values], axis=0)
    ranks[rankable] = _ranks(-mean_rank)
    layers = scores[LAYER].values.tolist()
    places = sorted(range(len(layers)), key=lambda i: (broken[i], ranks[i], layers[i]))
    columns = list(dict.fromkeys([*order, *present]))
    rows = tuple(_row(scores, statistics, i, ranks[i], order, columns) for i in places)
    kind = "head" if HEAD in scores.coords else "layer"
    if rankable.any():
        labels = {layers[i]: f"{kind} {row.label}" for i, row in zip(places, rows, strict=True)}
        first = layers[places[0]]
        notes += _disagreements(means.isel({LAYER: ~broken}), first, present, labels)
    return Ranking(rows[:top], tuple(order), tuple(notes), kind)


def _names(by: str | Sequence[str] | None) -> list[str]:
    """The requested scores, each once. Raises UsageError for an unknown one."""
    names = [] if by is None else [by] if isinstance(by, str) else list(by)
    return [name for name in dict.fromkeys(names) if SCORES[name]]


def _score_names(scores: xr.Dataset) -> list[str]:
    return [str(name) for name in scores["score"].values]


def _sign(name: str) -> int:
    return 1 if SCORES[name].higher_is_attention else -1


def _ranks(values: Float[np.ndarray, " layer"]) -> Float[np.ndarray, " layer"]:
    """1 for the highest; equal values share the mean of their ranks."""
    return stats.rankdata(-values, method="average")


def _order(
    scores: xr.Dataset, requested: list[str], present: list[str]
) -> tuple[list[str], list[str]]:
    """The scores to order by, and a note for each score left out because no layer has it."""
    targeted = [name for name in TARGETED if name in present]
    names = requested or targeted[:1] or list(STRUCTURAL)
    order = [name for name in names if name in present]
    absent = [f"{name}: {_why(scores, name)}" for name in names if name not in present]
    if order:
        return order, [f"left out of the order: {text}" for text in absent]
    if (scores["finite"].values == FINITE).all():
        raise UsageError(
            f"no score to rank by ({'; '.join(absent)}); "
            "name another score or capture other prompts"
        )
    return names, []


def _why(scores: xr.Dataset, name: str) -> str:
    """The first reason why no layer has a score."""
    if name not in _score_names(scores):
        return "it was not computed"
    reasons = scores["reason"].sel(score=name).values.ravel()
    return next((str(reason) for reason in reasons if reason), "there is no prompt")


def _row(
    scores: xr.Dataset,
    statistics: xr.Dataset,
    place: int,
    rank: float,
    order: list[str],
    columns: list[str],
) -> RankedLayer:
    values, spread = {}, {}
    is_head = HEAD in scores.coords
    for name in columns:
        values[name], deviation = map(float, statistics[name].values[:, place])
        if np.isfinite(deviation):
            spread[name] = deviation
        values |= {c: float(scores[c].values[place]) for c in SCORES[name].companions}
    return RankedLayer(
        rank=float(rank) if np.isfinite(rank) else None,
        layer=int(scores[BLOCK if is_head else LAYER].values[place]),
        scores=values,
        spread=spread,
        closure_error=float(scores["closure_error"].values[place]),
        map_closure=float(scores["map_closure"].values[place]),
        reason=_reason(scores, place, order),
        head=int(scores[HEAD].values[place]) if is_head else None,
        operator=str(scores[OPERATOR].values[place]) if is_head else None,
        chance={
            name: level for name in columns if np.isfinite(level := _chance(scores, name, place))
        },
    )


def _chance(scores: xr.Dataset, name: str, place: int) -> float:
    """Mean over prompts of what a score is by chance; NaN where there is no such level."""
    return float(scores[CHANCE].sel(score=name).isel(layer=place).mean())


def _reason(scores: xr.Dataset, place: int, order: list[str]) -> str:
    """Why this layer is not ranked, or its scores may be wrong; "" if there is no reason."""
    finite = str(scores["finite"].values[place])
    if finite != FINITE:
        why = str(scores["finite_reason"].values[place])
        return f"non-finite {finite}" + (f": {why}" if why else "")
    if why_open := str(scores["why_open"].values[place]):
        return f"does not close: {why_open}"
    for name in order:
        counts = scores[name].notnull().values.reshape(scores.sizes["layer"], -1).sum(axis=1)
        if counts[place] < counts.max():
            reasons = scores["reason"].sel(score=name).values[place]
            missing = next((str(reason) for reason in reasons if reason), "")
            return f"{name} on {counts[place]} of {counts.max()} prompts: {missing}"
    return ""


def _disagreements(
    means: xr.Dataset, first: int, present: list[str], labels: Mapping[int, str]
) -> list[str]:
    """A note for each map score whose first layer is not the ranking's, and one for the effects."""
    firsts = {name: _firsts(means, name) for name in present}
    firsts = {name: layers for name, layers in firsts.items() if layers}
    notes = [
        f"{name} would put {labels[layers[0]]} first"
        for name, layers in firsts.items()
        if name not in EFFECTS and first not in layers
    ]
    effects = {name: layers for name, layers in firsts.items() if name in EFFECTS}
    if not effects or all(first in layers for layers in effects.values()):
        return notes
    map_score = [name for name in (*TARGETED, *STRUCTURAL) if name in firsts][:1]
    choices = [f"{name} {labels[firsts[name][0]]}" for name in (*map_score, *effects)]
    return [*notes, f"scores and effects disagree on the first place: {', '.join(choices)}"]


def _firsts(means: xr.Dataset, name: str) -> list[int]:
    """The layers that a score puts first; empty if it has no value."""
    values = _sign(name) * means[name].values
    if not np.isfinite(values).any():
        return []
    return means[LAYER].values[values == np.nanmax(values)].tolist()
