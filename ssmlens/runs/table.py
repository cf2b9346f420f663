"""Runs side by side as a Dataset, for a table or a download."""

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from ssmlens.runs.measures import LOSS, WORDS
from ssmlens.runs.metrics import EVAL, TRAIN
from ssmlens.runs.run import Run


def tabulate(runs: Sequence[Run]) -> xr.Dataset:
    """Put runs side by side: their configs, status and last measurements.

    Returns:
        A Dataset with dims (run, length). `train_loss` (run) is the last training loss, and `train_X` the last of any
        other measure X; each measure (run, length) is the last evaluation, NaN if there is none: all known measures and
        any others of the runs. Coordinates of run: `arm`, `seed` (−1: none), `learning_rate`, `teacher_layer` (−1:
        none), `state`, `step`. A measure with one of these names gets an underscore after it.
    """
    lengths = sorted({n for run in runs for n in run.metrics.lengths()})
    shape = (len(runs), len(lengths))
    last = {
        name: np.array([[run.metrics.final(name, n) for n in lengths] for run in runs])
        for name in dict.fromkeys([*WORDS, *measures(runs, EVAL)])
    }
    trained = {
        f"train_{name}".replace("/", "_"): np.array([_last(run, name) for run in runs])
        for name in dict.fromkeys([LOSS, *measures(runs, TRAIN)])
    }
    about = {
        "arm": np.array([run.arm for run in runs], dtype=str),
        "seed": np.array([_or_none(run.seed) for run in runs], dtype=np.int64),
        "learning_rate": np.array([run.learning_rate for run in runs], dtype=float),
        "teacher_layer": np.array([_or_none(run.teacher_layer) for run in runs], dtype=np.int64),
        "state": np.array([run.status.state for run in runs], dtype=str),
        "step": np.array([run.status.step for run in runs], dtype=np.int64),
    }
    reserved = {"run", "length", *trained, *about}
    named = {f"{name}_" if name in reserved else name: values for name, values in last.items()}
    return xr.Dataset(
        {
            **{name: ("run", values) for name, values in trained.items()},
            **{
                name.replace("/", "_"): (("run", "length"), values.reshape(shape))
                for name, values in named.items()
            },
        },
        coords={
            "run": np.array([run.name for run in runs], dtype=str),
            "length": np.array(lengths, dtype=np.int64),
            **{name: ("run", values) for name, values in about.items()},
        },
    )


def measures(runs: Sequence[Run], split: str = EVAL) -> list[str]:
    """Return the measures of any run in a split: those with a description first, then others as they come."""
    present = dict.fromkeys(name for run in runs for name in run.metrics.measures(split))
    return [*(name for name in WORDS if name in present), *(n for n in present if n not in WORDS)]


def _last(run: Run, measure: str) -> float:
    values = run.metrics.curve(measure, TRAIN)[1]
    return float(values[-1]) if len(values) else math.nan


def _or_none(value: int | None) -> int:
    return -1 if value is None else value
