"""Training runs as curves: read anew where they grew, gathered by arm, thinned to what a screen shows."""

import dataclasses
import hashlib
import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float, Int

from ssmlens.errors import SsmlensError
from ssmlens.plots.training_curves import Curve
from ssmlens.plots.transplant import Students
from ssmlens.store.run_metrics import TRAIN, Measure
from ssmlens.store.runs import Run, open_run
from ssmlens_dashboard.address import RunMeasure
from ssmlens_dashboard.library import Entry, Library, without_folders

MOST_POINTS = 2000
"""Most points of a curve."""

MOST_ARMS = 8
"""Arms drawn as curves at most."""

MEASURES: dict[RunMeasure, str] = {"string": "strings right", "char": "characters right"}
"""What is compared, in words."""

_POINTS = 16_000  # of all curves of a figure
_QUIET = (
    600.0  # seconds without a word after which a run that says it runs is taken to have stopped
)
_AFTER = 60.0  # seconds for which the page goes on looking after the last word: a sweep starts another run
Measured = tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]
Arm = tuple[str, int]
"""How a model starts: the arm's name, and the teacher's layer or -1."""

_HELD: WeakKeyDictionary[Library, dict[str, Run]] = WeakKeyDictionary()
_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Listed:
    """A run of the library, as far as it can be read.

    Attributes:
        entry: Which one.
        folder: Id of the folder it lies in: of its sweep.
        run: What it says; None where it cannot be read.
        problem: Why it cannot be read.
    """

    entry: Entry
    folder: str
    run: Run | None
    problem: str = ""

    @property
    def state(self) -> str:
        """The run's state, "silent" where it says that it runs and has written nothing for ten minutes."""
        if self.run is None:
            return "unreadable"
        state = self.run.status.state
        return "silent" if state in ("running", "starting") and _age(self.run) > _QUIET else state


def listed(library: Library, chosen: Sequence[str] = ()) -> list[Listed]:
    """The runs there are now, only what grew of them read.

    Args:
        library: Where they are.
        chosen: Ids of runs, or of folders of runs; empty: the folder that was last written to.
    """
    found = everywhere(library)
    if not chosen and found:
        chosen = (max(found, key=lambda it: it.run.written if it.run else 0).folder,)
    return [it for it in found if it.entry.id in chosen or it.folder in chosen]


def everywhere(library: Library) -> list[Listed]:
    """All runs there are now, only what grew of them read."""
    entries = library.entries("run")
    with _LOCK:
        held = _HELD.setdefault(library, {})
        for gone in held.keys() - {entry.id for entry in entries}:
            del held[gone]
        return [_listed(entry, held) for entry in entries]


def sound(found: Sequence[Listed]) -> list[Run]:
    """The runs to draw: those that can be read and have not failed."""
    return [it.run for it in found if it.run is not None and it.state != "failed"]


def captures(library: Library) -> dict[str, list[Entry]]:
    """The captures that each run has made so far, by the run's id, in the order of its steps."""
    made: dict[str, list[Entry]] = {}
    for entry in library.entries("capture"):
        if entry.run is not None and not entry.growing:
            made.setdefault(entry.run.id, []).append(entry)
    return made


def folders(found: Sequence[Listed]) -> dict[str, str]:
    """Folders that hold runs: id and name, in order."""
    return {it.folder: it.entry.path.parent.name for it in found}


def fingerprint(found: Sequence[Listed]) -> str:
    """What a page that shows these runs depends on, in short."""
    told = [
        (it.entry.id, it.state, it.problem, it.run and (it.run.metrics.end, it.run.written))
        for it in found
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def live(found: Sequence[Listed]) -> bool:
    """Whether there may soon be more to see."""
    return any(
        it.state in ("running", "starting") or _age(it.run) < _AFTER for it in found if it.run
    )


def lengths(runs: Sequence[Run]) -> list[int]:
    """Lengths that any of the runs was evaluated at."""
    return sorted({n for run in runs for n in run.metrics.lengths()})


def length_shown(runs: Sequence[Run], asked: int | None) -> int | None:
    """The length to compare at: the one asked for, else the longest trained on, else the shortest evaluated."""
    there = lengths(runs)
    trained = max((run.length for run in runs if run.length in there), default=None)
    if asked in there:
        return asked
    return trained if trained is not None else min(there, default=None)


def rates(runs: Sequence[Run]) -> list[float]:
    """The learning rates of the runs."""
    return sorted({run.learning_rate for run in runs if not math.isnan(run.learning_rate)})


def by_arm(runs: Sequence[Run]) -> dict[Arm, list[Run]]:
    """The runs of each arm: those without a teacher first, "default" and "mimetic" before others."""
    arms: dict[Arm, list[Run]] = {}
    for run in runs:
        arms.setdefault(_arm(run), []).append(run)

    def place(arm: Arm) -> tuple[bool, int, str, int]:
        name, layer = arm
        order = ("default", "mimetic", "transplant")
        return layer >= 0, order.index(name) if name in order else len(order), name, layer

    return {arm: arms[arm] for arm in sorted(arms, key=place)}


def arm_text(arm: Arm) -> str:
    """An arm in words."""
    name, layer = arm
    return name if layer < 0 else f"{name} of layer {layer}"


def at_rate(
    runs: Sequence[Run], rate: float | None, measure: Measure, length: int | None
) -> list[Run]:
    """The runs of one arm at a learning rate; for None at the one whose runs do best on average.

    Where nothing was evaluated yet, best is least loss; where there is no learning rate, all of them.
    """
    there = rates(runs)
    if rate is None and there:
        rate = max(there, key=lambda r: _merit(_with_rate(runs, r), measure, length))
    return list(runs) if rate is None else _with_rate(runs, rate)


def most_telling(
    arms: Mapping[Arm, Sequence[Run]], measure: Measure, length: int | None
) -> list[Arm]:
    """The arms to draw: those without a teacher, then those that do best, `MOST_ARMS` in all; in their order."""

    def place(arm: Arm) -> tuple[bool, float, float]:
        value, little_loss = _merit(at_rate(arms[arm], None, measure, length), measure, length)
        return arm[1] >= 0, -value, -little_loss

    return [arm for arm in arms if arm in sorted(arms, key=place)[:MOST_ARMS]]


def curves(
    chosen: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    measure: Measure,
    split: str,
    length: int | None,
) -> list[Curve]:
    """A measure by step: of each arm the mean of its runs, and the band from their least to their most."""
    most = min(MOST_POINTS, _POINTS // max(1, len(chosen)))
    found = []
    for arm, runs in chosen.items():
        measured = [run.metrics.curve(measure, split, length) for run in runs]
        curve = over_runs(measured, most)
        if len(curve[0]):
            found.append(Curve(arm_text(arm), styles[arm], *curve))
    return found


def by_length(
    chosen: Mapping[Arm, Sequence[Run]], styles: Mapping[Arm, int], measure: Measure
) -> list[Curve]:
    """The last evaluation by length."""
    found = []
    for arm, runs in chosen.items():
        there = np.array(lengths(runs))
        values = np.array([[run.metrics.final(measure, int(n)) for n in there] for run in runs])
        found += _curve(arm, styles, there, values.reshape(len(runs), len(there)))
    return found


def by_rate(
    arms: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    measure: Measure,
    length: int | None,
) -> list[Curve]:
    """The last evaluation by learning rate: how wide the window is in which an arm learns."""
    found = []
    for arm, runs in arms.items():
        there = rates(runs)
        groups = [[_final(run, measure, length) for run in _with_rate(runs, r)] for r in there]
        values = np.full((max(map(len, groups), default=0), len(there)), np.nan)
        for column, group in enumerate(groups):
            values[: len(group), column] = group
        found += _curve(arm, styles, np.array(there), values)
    return found


def students(
    arms: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    score: str,
    measure: Measure,
    at: Sequence[int],
) -> list[Students]:
    """Of every arm with teachers, its students' accuracy at each of the lengths, over their layers' score."""
    found = []
    for name in dict.fromkeys(name for name, layer in arms if layer >= 0):
        layers = [layer for other, layer in arms if other == name and layer >= 0]
        groups = [arms[name, layer] for layer in layers]
        scores = [_score(runs, score) for runs in groups]
        for place, length in enumerate(at):
            accuracy = [
                final_mean(at_rate(runs, None, measure, length), measure, length) for runs in groups
            ]
            found.append(
                Students(
                    arm=name,
                    length=length,
                    style=styles[name, layers[0]],
                    filled=place == 0,
                    layer=np.array(layers),
                    score=np.array(scores, dtype=float),
                    accuracy=np.array(accuracy, dtype=float),
                )
            )
    return found


def scores_known(runs: Sequence[Run]) -> list[str]:
    """Names of the scores that the runs tell of their teachers' layers, those that no layer has left out."""
    return list(
        dict.fromkeys(
            name
            for run in runs
            for name, value in run.teacher_scores.items()
            if math.isfinite(value)
        )
    )


def final_mean(runs: Sequence[Run], measure: Measure, length: int | None) -> float:
    """The last evaluation at a length, over those runs that have one; NaN where none has."""
    values = [value for run in runs if math.isfinite(value := _final(run, measure, length))]
    return sum(values) / len(values) if values else math.nan


def over_runs(
    measured: Sequence[Measured], most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Several curves as one: steps, mean, least, most and number of runs, at no more than `most` steps.

    Where there are more steps, neighbours are put together: a run counts with its mean of them, and the least and most
    are over them all, so that a spike of one step is seen.
    """
    steps = np.unique(np.concatenate([at for at, _ in measured] or [np.zeros(0)]))
    bins = min(most, len(steps))
    starts = np.linspace(0, len(steps), bins + 1).astype(int)[:-1]
    total = np.zeros((len(measured), bins))
    count, low, high = np.zeros_like(total), np.full(bins, np.inf), np.full(bins, -np.inf)
    for row, (at, values) in enumerate(measured):
        finite = np.isfinite(values)
        at, values = at[finite], values[finite]
        into = np.searchsorted(starts, np.searchsorted(steps, at), side="right") - 1
        np.add.at(total[row], into, values)
        np.add.at(count[row], into, 1)
        np.minimum.at(low, into, values)
        np.maximum.at(high, into, values)
    runs = (count > 0).sum(axis=0)
    kept = runs > 0
    means = np.divide(total, count, out=np.zeros_like(total), where=count > 0).sum(axis=0)[kept]
    ends = np.append(starts[1:], len(steps)) - 1
    middle = steps[(starts + ends) // 2]
    return (
        middle[kept].astype(float),
        means / runs[kept],
        low[kept],
        high[kept],
        runs[kept].astype(float),
    )


def _listed(entry: Entry, held: dict[str, Run]) -> Listed:
    folder = hashlib.sha256(str(entry.path.parent).encode()).hexdigest()[:10]
    try:
        known = held.get(entry.id)
        held[entry.id] = open_run(entry.path) if known is None else known.reread()
        return Listed(entry, folder, held[entry.id])
    except SsmlensError as error:
        held.pop(entry.id, None)
        return Listed(entry, folder, None, without_folders(str(error), entry))


def _age(run: Run) -> float:
    """Seconds since a run wrote something."""
    return time.time() - run.written


def _arm(run: Run) -> Arm:
    """A run's arm; the layer that its name tells, as in "transplant 3", is told apart from it."""
    if run.teacher_layer is None:
        return run.arm, -1
    return re.sub(rf" {run.teacher_layer}(?= |$)", "", run.arm, count=1), run.teacher_layer


def _with_rate(runs: Sequence[Run], rate: float) -> list[Run]:
    return [run for run in runs if run.learning_rate == rate]


def _final(run: Run, measure: Measure, length: int | None) -> float:
    return math.nan if length is None else run.metrics.final(measure, length)


def _merit(runs: Sequence[Run], measure: Measure, length: int | None) -> tuple[float, float]:
    """How well runs do: by the measure, then by how little they lose."""
    losses = [run.metrics.curve("loss", TRAIN)[1] for run in runs]
    last = [values[-1] for values in losses if len(values) and math.isfinite(values[-1])]
    value = final_mean(runs, measure, length)
    return (
        -math.inf if math.isnan(value) else value,
        -sum(last) / len(last) if last else -math.inf,
    )


def _score(runs: Sequence[Run], name: str) -> float:
    told = [run.teacher_scores[name] for run in runs if name in run.teacher_scores]
    return told[0] if told else math.nan


def _curve(
    arm: Arm, styles: Mapping[Arm, int], x: np.ndarray, values: Float[np.ndarray, "run place"]
) -> list[Curve]:
    """The curve of an arm, without places where no run has a value; none at all where no place is left."""
    runs = np.isfinite(values).sum(axis=0)
    kept = runs > 0
    if not kept.any():
        return []
    values, runs = values[:, kept], runs[kept].astype(float)
    total = np.nansum(values, axis=0)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    return [Curve(arm_text(arm), styles[arm], x[kept].astype(float), total / runs, low, high, runs)]
