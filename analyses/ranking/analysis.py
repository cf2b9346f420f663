"""The numbers of PREREGISTERED.md, from what the sittings wrote: every statistic and the verdict, as fixed there."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import nnls

from analyses.ranking.experiment import (
    CONTROLS_OF_SIX,
    EXPLORATORY,
    PRIMARY,
    SECONDARY,
    six,
)
from analyses.results_file import restore, runs_below
from ssmlens.runs.arms import Grid
from ssmlens.runs.measures import DEFAULT
from ssmlens.runs.prediction_table import corrected
from ssmlens.runs.rank_statistics import split_half
from ssmlens.runs.run import Run
from ssmlens.runs.validation import (
    TRAINING_LOSS,
    LayerTable,
    Prediction,
    layer_table,
    predict,
    reached_by_seed,
)

COMBINATION = "combination, held out"
_LEVEL, _LEAST_RHO, _MOST_REGRET = 0.05, 0.3, 0.5
_OF_COMBINATION = (PRIMARY, *SECONDARY)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher, and the students of its layers.

    Attributes:
        name: Its corpus and seed: "P0".
        record: teacher.json.
        runs: Of its students.
        table: Its layers against Y1.
        in_training: Its layers against Y2.
    """

    name: str
    record: Mapping[str, Any]
    runs: Sequence[Run]
    table: LayerTable
    in_training: LayerTable

    @property
    def corpus(self) -> str:
        """P or C."""
        return self.name[0]

    @property
    def passes(self) -> bool:
        """Whether it passes the gate."""
        return self.record.get("gate") is not False


def read_teacher(folder: Path) -> Teacher:
    """A teacher's results: teacher.json and results.json in a folder."""
    record = json.loads((folder / "teacher.json").read_text())
    runs = read_runs(folder / "results.json")
    table, in_training = layer_table(runs), layer_table(runs, TRAINING_LOSS)
    return Teacher(record["name"], record, runs, table, in_training)


def read_runs(file: Path) -> list[Run]:
    """The runs of a results file."""
    with tempfile.TemporaryDirectory() as folder:
        restore(file, Path(folder))
        return runs_below(Path(folder))


def read_teachers(folder: Path) -> list[Teacher]:
    """All teachers whose students were trained, by name."""
    found = sorted(file.parent for file in folder.glob("*/results.json"))
    return [read_teacher(path) for path in found]


def predictions(tables: Sequence[LayerTable]) -> tuple[list[Prediction], list[float]]:
    """Of every score, the primary one first; and p after Holm's correction within secondary and exploratory ones."""
    names = [name for name in (PRIMARY, *SECONDARY, *EXPLORATORY) if _is_known(tables, name)]
    found = [predict(tables, name) for name in names]
    return found, corrected(found, [SECONDARY, EXPLORATORY])


def held_out(teachers: Sequence[Teacher]) -> tuple[Prediction, dict[str, list[float]]] | None:
    """The combination of three scores, fitted on one corpus and tested on the other, both ways; and the weights.

    None where there are no two corpora.
    """
    corpora = sorted({teacher.corpus for teacher in teachers})
    if len(corpora) != 2:
        return None
    weights = {corpus: fit([t.table for t in teachers if t.corpus == corpus]) for corpus in corpora}
    tables = []
    for teacher in teachers:
        other = next(corpus for corpus in corpora if corpus != teacher.corpus)
        combined = ranks_of(teacher.table) @ weights[other]
        scores = {**teacher.table.scores, COMBINATION: combined}
        tables.append(dataclasses.replace(teacher.table, scores=scores))
    fits = {f"fitted on {corpus}": weights[corpus].tolist() for corpus in corpora}
    return predict(tables, COMBINATION), fits


def fit(tables: Sequence[LayerTable]) -> Float[np.ndarray, " score"]:
    """Weights ≥ 0 of the three scores' ranks, by least squares on the ranks of the outcome."""
    outcomes = [_centred_ranks(table.real.mean(1)) for table in tables]
    return nnls(np.concatenate([ranks_of(t) for t in tables]), np.concatenate(outcomes))[0]


def ranks_of(table: LayerTable) -> Float[np.ndarray, "layer score"]:
    """The three scores' ranks, centred."""
    return np.stack([_centred_ranks(table.scores[name]) for name in _OF_COMBINATION], axis=1)


def shares_of_gain(teacher: Teacher) -> dict[str, dict[str, Any]]:
    """By control: which share of the real layers' gain over the default it has, over its layers; and each one's."""
    default = [run for run in teacher.runs if run.arm == "default"]
    length = max(n for run in teacher.runs for n in run.metrics.lengths())
    floor = float(Grid.reached(default, DEFAULT, length).by_rate().mean()) if default else math.nan
    chosen = sorted(six(teacher.record["ranked"]))
    found: dict[str, dict[str, Any]] = {}
    for control in ("shuffled", *CONTROLS_OF_SIX):
        layers = chosen if control != "shuffled" else sorted(teacher.record["ranked"])
        of_control = [run for run in teacher.runs if run.control == control]
        real = [r for r in teacher.runs if r.teacher_layer in layers and not r.control]
        theirs = reached_by_seed(of_control, layers, DEFAULT, length)
        ours = reached_by_seed(real, layers, DEFAULT, length)
        if theirs.shape[1] and ours.shape[1]:
            gain, whole = theirs.mean(1) - floor, ours.mean(1) - floor
            each = {str(n): float(g / w) for n, g, w in zip(layers, gain, whole, strict=True)}
            found[control] = {"share": float(gain.mean() / whole.mean()), "layers": each}
    return found


def spread_between_seeds(table: LayerTable) -> float:
    """The standard deviation of a layer's outcome between seeds, pooled over layers; NaN for one seed."""
    if table.real.shape[1] < 2:
        return math.nan
    return float(np.sqrt(table.real.var(axis=1, ddof=1).mean()))


def ceiling(teacher: Teacher) -> float:
    """How far the mean over seeds would agree with that of as many others."""
    return split_half(table.real) if (table := teacher.table).real.shape[1] > 1 else math.nan


def some_layers_are_better(teachers: Sequence[Teacher]) -> bool:
    """Of the paper's Figure 11: the best layer is above the median layer by .2, and by twice the seeds' spread."""
    for teacher in teachers:
        reached = teacher.table.real.mean(1)
        lead, spread = reached.max() - np.median(reached), spread_between_seeds(teacher.table)
        if not (lead >= 0.2 and (math.isnan(spread) or lead >= 2 * spread)):
            return False
    return bool(teachers)


def predicts(found: Prediction, adjusted: float) -> bool:
    """Whether a score predicts transplants, by all conditions."""
    return (
        found.rho > 0
        and adjusted < _LEVEL
        and found.interval[0] > _LEAST_RHO
        and found.partial_interval[0] > 0
        and found.structure_interval[0] > 0
        and all(regret <= _MOST_REGRET for regret in found.regret)
    )


def verdict(teachers: Sequence[Teacher]) -> str:
    """What is concluded on Y1, in one line; of the teachers that pass the gate."""
    able = [teacher for teacher in teachers if teacher.passes]
    if len(able) < 2:
        passed = "1 teacher passes" if len(able) == 1 else "no teacher passes"
        return f"{passed} the gate: two are needed, and nothing is concluded"
    found, adjusted = predictions([teacher.table for teacher in able])
    by_name = {it.score: (it, p) for it, p in zip(found, adjusted, strict=True)}
    tested = {name: by_name[name] for name in _OF_COMBINATION if name in by_name}
    good = [name for name, pair in tested.items() if predicts(*pair)]
    if PRIMARY in good:
        return f"{PRIMARY} ranks transplant candidates: {_numbers(tested[PRIMARY][0], len(able))}"
    if good:
        numbers = "; ".join(f"{name}: {_numbers(tested[name][0], len(able))}" for name in good)
        default = _numbers(tested[PRIMARY][0], len(able))
        return f"the default order does not predict transplants ({PRIMARY}: {default}); {numbers}"
    combined = held_out(able)
    if combined is not None and _combination_predicts(combined[0]):
        return f"the {COMBINATION}, predicts transplants: {_numbers(combined[0], len(able))}"
    associated = [n for n, (it, p) in tested.items() if it.rho > 0 and p < _LEVEL]
    if associated:
        numbers = "; ".join(
            f"{name}: {_numbers(tested[name][0], len(able))}" for name in associated
        )
        return f"associated with what students learn, not shown beyond depth, scale and memory: {numbers}"
    return f"finds attention-like layers; did not predict transplants ({_numbers(tested[PRIMARY][0], len(able))})"


def _combination_predicts(found: Prediction) -> bool:
    return (
        found.interval[0] > _LEAST_RHO
        and all(rho > _LEAST_RHO for rho in found.by_teacher)
        and all(regret <= _MOST_REGRET for regret in found.regret)
    )


def _numbers(found: Prediction, teachers: int) -> str:
    low, high = found.interval
    return f"ρ = {found.rho:.2f} ({low:.2f} to {high:.2f}), {teachers} teachers"


def _is_known(tables: Sequence[LayerTable], name: str) -> bool:
    return all(np.isfinite(t.scores.get(name, np.array([math.nan]))).any() for t in tables)


def _centred_ranks(values: Float[np.ndarray, " layer"]) -> Float[np.ndarray, " layer"]:
    ranks = stats.rankdata(values)
    return ranks - ranks.mean()
