"""`ssmlens.plot`'s figures of training runs: curves by arm, and the students of a teacher's layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ssmlens.errors import UsageError
from ssmlens.plot.finish import Length, finished
from ssmlens.plot.of_layers import ThemeName, theme_of
from ssmlens.plot.training_curves import Curve, training_curves
from ssmlens.plot.transplant_panels import transplant_panels
from ssmlens.runs.measures import DEFAULT, LOSS, SHARES, in_words
from ssmlens.runs.students import Student, panels

_SIZE = (900, 460)


def training(
    runs: Sequence[Any],
    *,
    measure: str = DEFAULT,
    length: int | None = None,
    title: str | None = None,
    size: tuple[Length | None, Length | None] = (None, None),
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw a measure by step: of each arm the mean over its runs, and the band from their least to most.

    Args:
        runs: Training runs, as `ssmlens.train` and `open_run` return them.
        measure: "loss" (of training), or a measure that is evaluated, such as "char" or "string".
        length: The length evaluated at; None: the longest that a run trained on.
        title: What stands above; None leaves it out.
        size: Width and height; None: 900 × 460 pixels.
        theme: "light" or "dark".

    Raises:
        UsageError: No run has measured it.
    """
    loss = measure == LOSS
    at = max((run.length or 0 for run in runs), default=0) if length is None else length
    place = ("train", None) if loss else ("eval", at)
    arms: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for run in runs:
        steps, values = run.metrics.curve(measure, *place)
        if len(steps):
            arms.setdefault(run.arm, []).append((steps, values))
    if not arms:
        where = "" if loss else f" at length {at}"
        raise UsageError(f"none of these {len(runs)} runs has measured {measure}{where}")
    curves = [_curve(arm, style, found) for style, (arm, found) in enumerate(arms.items())]
    name = "loss" if loss else f"{in_words(measure)} at length {at}"
    figure = training_curves(curves, "step", name, share=measure in SHARES, theme=theme_of(theme))
    return finished(figure, title, size, _SIZE, theme_of(theme))


def students(
    of: Sequence[Student],
    scores: Sequence[str],
    *,
    measured: str = f"{in_words(DEFAULT)}, all rates",
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw what students reach against the scores of the teacher's layer that they started as.

    Args:
        of: The students of a transplant, see `runs.students.students`: a point is the mean over all rates.
        scores: The scores drawn, a column each.
        measured: What was measured, in words.
        theme: "light" or "dark".

    Raises:
        UsageError: There are no students.
    """
    if not of:
        raise UsageError("there are no students to draw")

    lengths = list(of[0].at)
    return transplant_panels(
        *panels(of, scores, lengths), scores, lengths, measured, theme=theme_of(theme)
    )


def _curve(arm: str, style: int, found: Sequence[tuple[np.ndarray, np.ndarray]]) -> Curve:
    """Several runs as one curve over all of their steps."""
    steps = np.unique(np.concatenate([at for at, _ in found]))
    table = np.full((len(found), len(steps)), np.nan)
    for row, (at, values) in zip(table, found, strict=True):
        row[np.searchsorted(steps, at)] = values
    there = np.isfinite(table).any(0)
    steps, table = steps[there], table[:, there]
    count = np.isfinite(table).sum(0).astype(float)
    mean, low, high = (f(table, axis=0) for f in (np.nanmean, np.nanmin, np.nanmax))
    return Curve(arm, style, steps.astype(float), mean, low, high, count)
