"""The figures of training runs: curves by arm, and the students of a teacher's layers."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from ssmlens.errors import UsageError
from ssmlens.plot.finish import Length, finished
from ssmlens.plot.of_layers import ThemeName, theme_of
from ssmlens.plot.training_curves import training_curves
from ssmlens.plot.transplant_panels import transplant_panels
from ssmlens.runs.arms import by_arm, lengths, training_length
from ssmlens.runs.curves import by_step
from ssmlens.runs.measures import DEFAULT, LOSS, SHARES, in_words
from ssmlens.runs.metrics import EVAL, TRAIN
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
    """Draw a measure by step: each arm's mean over its runs that did not fail, and their range as a band.

    Arms and the default length are those of `ssmlens compare` (`runs.arms`).

    Args:
        runs: Training runs, as `ssmlens.train` and `open_run` return them.
        measure: "loss" (training loss), or an evaluated measure such as "char" or "string".
        length: The evaluation length; None: the longest that a run trained on and measured.
        title: The title; None for none.
        size: Width and height; None: 900 × 460 pixels.
        theme: "light" or "dark".

    Raises:
        UsageError: No run has this measure.
    """
    loss = measure == LOSS
    at = training_length(runs, lengths(runs)) if length is None else length
    arms, place = by_arm(runs), (TRAIN, None) if loss else (EVAL, at)
    curves = by_step(arms, {arm: style for style, arm in enumerate(arms)}, measure, *place)
    if not curves:
        where = "" if loss or at is None else f" at length {at}"
        raise UsageError(f"none of these {len(runs)} runs has measured {measure}{where}")
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
    """Draw the accuracy of students against the scores of the teacher's layer that they started from.

    Args:
        of: The students of a transplant (`runs.students.students`): a point is the mean over all rates.
        scores: The scores, one column each.
        measured: Name of the measure.
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
