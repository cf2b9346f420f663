"""All scores of a capture as one Dataset: one variable per score, with dims layer and prompt."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import xarray as xr

from ssmlens.names import LAYER, PROMPT
from ssmlens.scores.reading import CaptureLike, NotApplicable, Reading
from ssmlens.scores.score import SCORES, Score
from ssmlens.store.layer_like import LayerLike
from ssmlens.store.verdict import CLOSURE, MAP_CLOSURE, why_open, worst

SCORE, CHANCE = "score", "chance"

_T = TypeVar("_T")


class _Cell(NamedTuple):
    """A score on one layer and prompt; `reason` says why the value is NaN, "" if it is not."""

    value: float
    detail: Any
    reason: str
    chance: float = math.nan


def compute(
    capture: CaptureLike,
    names: Iterable[str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Score every layer of a capture; one layer and prompt is in memory at a time.

    Args:
        capture: An open capture.
        names: The scores, in this order; None for all that are registered.
        progress: Called with (layers done, layers) after each layer.

    Returns:
        A Dataset with a variable a score: (layer, prompt) where it reads maps, (layer,) where it
        reads weights; a variable (layer,) a companion; and `reason` (score, layer, prompt), why a
        value is NaN ("" where it is not).
        A coordinate `chance` (score, layer, prompt): what each value is by chance (`Score.chance`), NaN where there is
        no such level.
        Coordinates of layer: the block index, `finite`, `finite_reason` (what the capture tells of
        it), `closure_error` and `map_closure` (the worst over prompts) and `why_open` (why they are too large, "" where
        they are not); of prompt: `prompt_kind` and `length`.
        Variables carry `long_name`, `units` and `range` as attributes.

    Raises:
        UsageError: A name is not a registered score.
    """
    selected = {name: SCORES[name] for name in (SCORES if names is None else names)}
    layers, prompts = list(capture.layers), len(capture.length)
    rows, finite, why, closure, map_closure, open_reasons = [], [], [], [], [], []
    for index in layers:
        layer = capture.layer(index)
        rows.append(_measure_layer(capture, layer, selected))
        finite.append(layer.state)
        why.append(str(layer.attributes.get("reason", "")))
        closure.append(worst(layer, CLOSURE))
        map_closure.append(worst(layer, MAP_CLOSURE))
        open_reasons.append(why_open(layer, capture.closure_tolerance))
        if progress is not None:
            progress(len(rows), len(layers))

    variables = {}
    for name, score in selected.items():
        variables |= _columns(name, score, [row[name] for row in rows], prompts)
    reasons = [
        [_of_prompts([c.reason for c in row[name]], prompts) for row in rows] for name in selected
    ]
    chances = [
        [_of_prompts([c.chance for c in row[name]], prompts) for row in rows] for name in selected
    ]
    shape = (len(selected), len(layers), prompts)
    variables["reason"] = ((SCORE, LAYER, PROMPT), np.array(reasons, dtype=str).reshape(shape))
    return xr.Dataset(
        variables,
        coords={
            SCORE: np.array(list(selected), dtype=str),
            CHANCE: ((SCORE, LAYER, PROMPT), np.array(chances, dtype=float).reshape(shape)),
            LAYER: np.array(layers, dtype=int),
            "finite": (LAYER, np.array(finite, dtype=str)),
            "finite_reason": (LAYER, np.array(why, dtype=str)),
            "closure_error": (LAYER, np.array(closure, dtype=float)),
            "map_closure": (LAYER, np.array(map_closure, dtype=float)),
            "why_open": (LAYER, np.array(open_reasons, dtype=str)),
            PROMPT: np.arange(prompts),
            "prompt_kind": (PROMPT, np.array(capture.prompt_kinds, dtype=str)),
            "length": (PROMPT, np.asarray(capture.length)),
        },
    )


def summary(scores: xr.Dataset) -> xr.Dataset:
    """Mean and spread of each score over the prompts that have a value.

    Args:
        scores: What `compute` returned, or a selection of it.

    Returns:
        A Dataset with the scores as variables and dims (statistic, layer), statistic "mean" or
        "spread". The spread is the sample standard deviation: NaN below two prompts, and for scores
        of weights.
    """
    mean, spread = {}, {}
    for name in map(str, scores[SCORE].values):
        score = scores[name]
        varies = PROMPT in score.dims
        mean[name] = score.mean(PROMPT, keep_attrs=True) if varies else score
        spread[name] = score.std(PROMPT, ddof=1, keep_attrs=True) if varies else score * np.nan
    statistic = xr.Variable("statistic", ["mean", "spread"])
    return xr.concat([xr.Dataset(mean), xr.Dataset(spread)], dim=statistic)


def _measure_layer(
    capture: CaptureLike, layer: LayerLike, selected: Mapping[str, Score]
) -> dict[str, list[_Cell]]:
    """The cells of each score in one layer: one if it reads weights, else one per prompt."""
    cells: dict[str, list[_Cell]] = {name: [] for name in selected}
    for prompt in (None, *range(len(capture.length))):
        reading = Reading(capture, layer, prompt)
        for name, score in selected.items():
            if (score.reads == "weights") == (prompt is None):
                cells[name].append(_measure(score, reading))
    return cells


def _measure(score: Score, reading: Reading) -> _Cell:
    try:
        value, detail = score.measure(reading)
    except NotApplicable as reason:
        return _Cell(math.nan, None, str(reason))
    if math.isnan(value):
        return _Cell(value, detail, "what it reads is zero everywhere")
    return _Cell(value, detail, "", math.nan if score.chance is None else score.chance(reading))


def _columns(
    name: str, score: Score, rows: list[list[_Cell]], prompts: int
) -> dict[str, xr.Variable]:
    """The variables of a score: itself, and its companions, computed from the available details."""
    weights = score.reads == "weights"
    dims, shape = ((LAYER,), (len(rows),)) if weights else ((LAYER, PROMPT), (len(rows), prompts))
    values = np.array([[cell.value for cell in row] for row in rows], dtype=float).reshape(shape)
    attributes = {"long_name": score.description, "units": score.unit, "range": list(score.range)}
    columns = {name: xr.Variable(dims, values, attributes)}
    for companion, combine in score.companions.items():
        details = [[cell.detail for cell in row if not cell.reason] for row in rows]
        combined = [combine(values) if values else math.nan for values in details]
        columns[companion] = xr.Variable(LAYER, combined, {"long_name": f"{companion} of {name}"})
    return columns


def _of_prompts(values: list[_T], prompts: int) -> list[_T]:
    """A value for each prompt; a score of weights has the same for all."""
    return values if len(values) == prompts else values * prompts
