"""Test whether a score of a teacher's layers predicts what their students learn, from the runs of `transplant`."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from ssmlens.errors import UsageError
from ssmlens.runs import rank_statistics as of_ranks
from ssmlens.runs.arms import Grid, lengths, training_length
from ssmlens.runs.measures import DEFAULT, LOSS
from ssmlens.runs.metrics import EVAL
from ssmlens.runs.run import Run

LOG_SCALE = "log_scale"
"""Name of a layer's score for the size of its weights."""
MEMORY = "memory_length"
TRAINING_LOSS = "training loss"
"""Name of the outcome "negative held-out loss over training": higher is better."""


@dataclasses.dataclass(frozen=True)
class LayerTable:
    """The scores of a teacher's layers, and the outcomes of their students.

    Attributes:
        layer: Block indices of the layers, ascending.
        scores: Scores by name, NaN where a layer has none.
        real: Outcomes of the layers' students, mean over rates, for each complete seed.
        shuffled: The same for the shuffled controls; may have no seed.
        outcome: Name of the outcome, such as "char at 100".
    """

    layer: Int[np.ndarray, " layer"]
    scores: Mapping[str, Float[np.ndarray, " layer"]]
    real: Float[np.ndarray, "layer seed"]
    shuffled: Float[np.ndarray, "layer control_seed"]
    outcome: str


@dataclasses.dataclass(frozen=True)
class Prediction:
    """How well a score predicts what students learn; NaN where that is undefined.

    Attributes:
        score: Name of the score.
        by_teacher: Spearman's ρ over the layers of each teacher.
        rho: Spearman's ρ, pooled over teachers by Fisher's z.
        interval: 95 % interval of `rho`, see `rank_statistics.depth_interval`.
        p: p value of `rho`, see `rank_statistics.shift_test`; not corrected for multiple tests.
        partial: Pooled ρ given depth, `log_scale` and memory_length (for memory_length itself: the first two).
        partial_interval: 95 % interval of `partial`.
        structure: Pooled ρ with real − shuffled outcomes.
        structure_interval: 95 % interval of `structure`.
        shuffled: Pooled ρ with the outcomes of the shuffled controls.
        regret: Regret of the top 3, for each teacher; see `rank_statistics.top_regret`.
    """

    score: str
    by_teacher: tuple[float, ...]
    rho: float
    interval: tuple[float, float]
    p: float
    partial: float
    partial_interval: tuple[float, float]
    structure: float
    structure_interval: tuple[float, float]
    shuffled: float
    regret: tuple[float, ...]


def _undefined(score: str, teachers: int) -> Prediction:
    none, each = math.nan, (math.nan,) * teachers
    span = none, none
    return Prediction(score, each, none, span, none, none, span, none, span, none, each)


def layer_table(
    runs: Sequence[Run],
    measure: str = DEFAULT,
    length: int | None = None,
) -> LayerTable:
    """Build the table of one teacher's layers from the runs of their students.

    A seed is complete if every layer's student was measured at every rate, of the layers and rates in these runs.

    Args:
        runs: Runs of a `transplant`; other runs are ignored.
        measure: The measure at the end of a run; or `TRAINING_LOSS`.
        length: Length of the measure; None: the longest measured, or for `TRAINING_LOSS` the training length.

    Raises:
        UsageError: There are students of fewer than three layers, or no seed is complete.
    """
    real = [run for run in runs if run.teacher_layer is not None and not run.control]
    shuffled = [run for run in runs if run.teacher_layer is not None and run.control == "shuffled"]
    layers = sorted({run.teacher_layer for run in real if run.teacher_layer is not None})
    if len(layers) < 3:
        raise UsageError(
            f"there are students of {len(layers)} layers: an order needs at least three"
        )
    measured = lengths(real)
    in_training = measure == TRAINING_LOSS
    at = length or (training_length(real, measured) if in_training else max(measured, default=None))
    reached = reached_by_seed(real, layers, measure, at)
    if not reached.shape[1]:
        raise UsageError("no seed has students of every layer at every rate yet")
    first = {run.teacher_layer: run.teacher_scores for run in reversed(real)}
    names = dict.fromkeys(name for layer in layers for name in first[layer])
    return LayerTable(
        np.array(layers),
        {name: np.array([first[n].get(name, math.nan) for n in layers]) for name in names},
        reached,
        reached_by_seed(shuffled, layers, measure, at),
        f"{measure} at {at}",
    )


def predict(
    tables: Sequence[LayerTable], score: str, *, samples: int = 10_000, seed: int = 0
) -> Prediction:
    """Measure how well a score predicts the outcome, over the layers of some teachers that have it.

    Args:
        tables: One table per teacher.
        score: Name of the score.
        samples: Samples of the bootstrap.
        seed: Seed of the bootstrap.
    """
    real = [_pair(t.scores[score], t.real.mean(1)) for t in tables]
    if any(len(scored) < 3 for scored, _ in real):
        return _undefined(score, len(tables))
    by_teacher = tuple(of_ranks.correlation(*pair) for pair in real)
    partials = [_finite(t.scores[score], t.real.mean(1), *_covariates(t, score)) for t in tables]
    controlled = all(t.shuffled.shape[1] for t in tables)
    how = {"samples": samples, "seed": seed}

    def of_partial(a: np.ndarray, b: np.ndarray, *others: np.ndarray) -> np.ndarray:
        return of_ranks.partial_correlations(a, b, np.stack(others))

    def with_shuffled(structure: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        values = [
            t.real.mean(1) - t.shuffled.mean(1) if structure else t.shuffled.mean(1) for t in tables
        ]
        return [_pair(t.scores[score], v) for t, v in zip(tables, values, strict=True)]

    structure = with_shuffled(True) if controlled else []
    shuffled = with_shuffled(False) if controlled else []
    return Prediction(
        score=score,
        by_teacher=by_teacher,
        rho=of_ranks.pooled(by_teacher),
        interval=of_ranks.depth_interval(real, of_ranks.row_correlations, **how),
        p=of_ranks.shift_test(real),
        partial=of_ranks.pooled([float(of_partial(*(v[None] for v in g))[0]) for g in partials]),
        partial_interval=of_ranks.depth_interval(partials, of_partial, **how),
        structure=of_ranks.pooled([of_ranks.correlation(*pair) for pair in structure]),
        structure_interval=(
            of_ranks.depth_interval(structure, of_ranks.row_correlations, **how)
            if structure
            else (math.nan, math.nan)
        ),
        shuffled=of_ranks.pooled([of_ranks.correlation(*pair) for pair in shuffled]),
        regret=tuple(of_ranks.top_regret(*pair) for pair in real),
    )


def _covariates(table: LayerTable, score: str) -> list[Float[np.ndarray, " layer"]]:
    """Return depth, and `log_scale` and memory_length if known, without the score itself."""
    names = [n for n in (LOG_SCALE, MEMORY) if n != score and n in table.scores]
    return [table.layer.astype(float), *(table.scores[name] for name in names)]


def _pair(
    score: Float[np.ndarray, " layer"], outcome: Float[np.ndarray, " layer"]
) -> tuple[Float[np.ndarray, " kept"], Float[np.ndarray, " kept"]]:
    both = _finite(score, outcome)
    return both[0], both[1]


def _finite(*values: Float[np.ndarray, " layer"]) -> tuple[Float[np.ndarray, " kept"], ...]:
    """Return the values of the layers that have all of them."""
    finite = np.isfinite(np.stack(values)).all(0)
    return tuple(value[finite] for value in values)


def reached_by_seed(
    runs: Sequence[Run], layers: Sequence[int], measure: str, length: int | None
) -> Float[np.ndarray, "layer seed"]:
    """Return the mean over rates of each layer and seed; incomplete seeds are left out."""
    grids = []
    for layer in layers:
        of_layer = [run for run in runs if run.teacher_layer == layer]
        if not of_layer:
            return np.empty((len(layers), 0))
        if measure == TRAINING_LOSS:
            grids.append(Grid.from_runs(of_layer, lambda run: -training_loss(run, length)))
        else:
            grids.append(Grid.reached(of_layer, measure, length))
    rates = {rate for grid in grids for rate in grid.rates}
    seeds = sorted({seed for grid in grids for seed in grid.seeds})
    columns = []
    for seed in seeds:
        column = [grid.values[:, grid.seeds.index(seed)] for grid in grids if seed in grid.seeds]
        is_complete = len(column) == len(layers) and all(len(c) == len(rates) for c in column)
        if is_complete and np.isfinite(np.concatenate(column)).all():
            columns.append([float(c.mean()) for c in column])
    return np.array(columns).T if columns else np.empty((len(layers), 0))


def training_loss(run: Run, length: int | None) -> float:
    """Return the held-out loss at a length, mean over its measurements after the start; NaN if there is none.

    A failed run counts with its loss at the start: it has learned nothing.
    """
    if length is None:
        return math.nan
    steps, losses = run.metrics.curve(LOSS, EVAL, length)
    if run.status.state == "failed":
        return float(losses[0]) if len(losses) else math.nan
    after = losses[steps > 0]
    return float(after.mean()) if len(after) else math.nan
