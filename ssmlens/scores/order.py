"""Which layers are most attention-like: order by one score, or by the mean rank of several."""

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

# Coordinates of a table of heads, beside their running number, which stands for the layer.
BLOCK, HEAD, OPERATOR = "block", "head", "operator"

TARGETED = ("copy_score", "induction_score")
"""Default order: the first of these that the capture's prompts allow."""

STRUCTURAL = ("mask_ones", "bc_effective", "diagonal_sharpness")
"""Default order where no prompt has targets: what the paper saw in the layers that copy (§6)."""


def rank_layers(
    capture: CaptureLike,
    by: str | Sequence[str] | None = None,
    top: int | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Order a capture's layers, the most attention-like first; by an effect, the one that matters most.

    Effects stand beside the scores wherever the capture has them, and a note says where they disagree.

    Args:
        capture: An open capture.
        by: A score, or several to order by their mean rank. None: `copy_score` or `induction_score`
            where the prompts have targets, else the mean rank of `mask_ones`, `bc_effective` and
            `diagonal_sharpness`.
        top: Keep only this many rows; None for all.
        progress: Called as progress(layers done, layers) after each layer.

    Raises:
        UsageError: A score is unknown, or none of those asked for applies to this capture.
    """
    asked = _names(by)
    shown = dict.fromkeys([*asked, *TARGETED, *STRUCTURAL, *EFFECTS])
    return rank(compute(capture, shown, progress=progress), by, top)


def rank(
    scores: xr.Dataset, by: str | Sequence[str] | None = None, top: int | None = None
) -> Ranking:
    """Order layers by scores already computed: like `rank_layers`, from a Dataset that `compute` returned.

    Where the Dataset has coordinates `block`, `head` and `operator`, its layers are heads.

    Ties share their mean rank and stand in order of their block index. A layer without a value in a
    score of `by` is not ranked and stands after those that are; one with non-finite weights stands
    last.
    """
    if top is not None and top < 1:
        raise UsageError(f"top is {top}: ask for at least one layer")
    statistics = summary(scores)
    means = statistics.sel(statistic="mean")
    present = [name for name in _scored(scores) if scores[name].notnull().any()]
    order, notes = _order(scores, _names(by), present)
    broken = scores["finite"].values == NONFINITE_WEIGHTS
    values = np.stack([_sign(name) * means[name].values for name in order])
    rankable = np.isfinite(values).all(axis=0) & ~broken

    ranks = np.full(len(rankable), np.inf)
    mean_rank = np.mean([_ranks(row[rankable]) for row in values], axis=0)
    ranks[rankable] = _ranks(-mean_rank)
    layers = scores[LAYER].values.tolist()
    places = sorted(range(len(layers)), key=lambda i: (broken[i], ranks[i], layers[i]))
    shown = list(dict.fromkeys([*order, *present]))
    rows = tuple(_row(scores, statistics, i, ranks[i], order, shown) for i in places)
    of = "head" if HEAD in scores.coords else "layer"
    if rankable.any():
        named = {layers[i]: f"{of} {row.label}" for i, row in zip(places, rows, strict=True)}
        first = layers[places[0]]
        notes += _disagreements(means.isel({LAYER: ~broken}), first, present, named)
    return Ranking(rows[:top], tuple(order), tuple(notes), of)


def _names(by: str | Sequence[str] | None) -> list[str]:
    """The scores asked for, each once; raises UsageError for an unknown one."""
    names = [] if by is None else [by] if isinstance(by, str) else list(by)
    return [name for name in dict.fromkeys(names) if SCORES[name]]


def _scored(scores: xr.Dataset) -> list[str]:
    return [str(name) for name in scores["score"].values]


def _sign(name: str) -> int:
    return 1 if SCORES[name].higher_is_attention else -1


def _ranks(values: Float[np.ndarray, " layer"]) -> Float[np.ndarray, " layer"]:
    """1 for the highest; equal values share the mean of their ranks."""
    return stats.rankdata(-values, method="average")


def _order(scores: xr.Dataset, asked: list[str], present: list[str]) -> tuple[list[str], list[str]]:
    """The scores to order by, and a note for each that is left out because no layer has it."""
    targeted = [name for name in TARGETED if name in present]
    wanted = asked or targeted[:1] or list(STRUCTURAL)
    order = [name for name in wanted if name in present]
    absent = [f"{name}: {_why(scores, name)}" for name in wanted if name not in present]
    if order:
        return order, [f"left out of the order: {text}" for text in absent]
    if (scores["finite"].values == FINITE).all():
        raise UsageError(
            f"no score to rank by ({'; '.join(absent)}); "
            "name another score or capture other prompts"
        )
    return wanted, []


def _why(scores: xr.Dataset, name: str) -> str:
    """The first reason given for a score that no layer has."""
    if name not in _scored(scores):
        return "it was not computed"
    reasons = scores["reason"].sel(score=name).values.ravel()
    return next((str(reason) for reason in reasons if reason), "there is no prompt")


def _row(
    scores: xr.Dataset,
    statistics: xr.Dataset,
    place: int,
    rank: float,
    order: list[str],
    shown: list[str],
) -> RankedLayer:
    told, spread = {}, {}
    is_head = HEAD in scores.coords
    for name in shown:
        told[name], deviation = map(float, statistics[name].values[:, place])
        if np.isfinite(deviation):
            spread[name] = deviation
        told |= {c: float(scores[c].values[place]) for c in SCORES[name].companions}
    return RankedLayer(
        rank=float(rank) if np.isfinite(rank) else None,
        layer=int(scores[BLOCK if is_head else LAYER].values[place]),
        scores=told,
        spread=spread,
        closure_error=float(scores["closure_error"].values[place]),
        map_closure=float(scores["map_closure"].values[place]),
        reason=_reason(scores, place, order),
        head=int(scores[HEAD].values[place]) if is_head else None,
        operator=str(scores[OPERATOR].values[place]) if is_head else None,
        chance={
            name: level for name in shown if np.isfinite(level := _chance(scores, name, place))
        },
    )


def _chance(scores: xr.Dataset, name: str, place: int) -> float:
    """Mean over prompts of what a score is by chance; NaN where there is no such level."""
    return float(scores[CHANCE].sel(score=name).isel(layer=place).mean())


def _reason(scores: xr.Dataset, place: int, order: list[str]) -> str:
    """What a reader must know before believing this row's place."""
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
    means: xr.Dataset, first: int, present: list[str], named: Mapping[int, str]
) -> list[str]:
    """A note for each look that would put another layer first than the ranking does, and one for the effects."""
    firsts = {name: _firsts(means, name) for name in present}
    firsts = {name: layers for name, layers in firsts.items() if layers}
    notes = [
        f"{name} would put {named[layers[0]]} first"
        for name, layers in firsts.items()
        if name not in EFFECTS and first not in layers
    ]
    effects = {name: layers for name, layers in firsts.items() if name in EFFECTS}
    if not effects or all(first in layers for layers in effects.values()):
        return notes
    looks = [name for name in (*TARGETED, *STRUCTURAL) if name in firsts][:1]
    said = [f"{name} {named[firsts[name][0]]}" for name in (*looks, *effects)]
    return [*notes, f"looks and effects disagree on what comes first: {', '.join(said)}"]


def _firsts(means: xr.Dataset, name: str) -> list[int]:
    """The layers that a score puts first; none where it has no value."""
    values = _sign(name) * means[name].values
    if not np.isfinite(values).any():
        return []
    return means[LAYER].values[values == np.nanmax(values)].tolist()
