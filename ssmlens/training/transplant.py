"""Which layer of a trained model is a good start? A student from each, beside the arms that they are held against."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ssmlens.inits.init import choose_mixers
from ssmlens.models.load import load_model
from ssmlens.scores.ranking import Ranking
from ssmlens.store.disk import told_in_one_line
from ssmlens.store.runs import Run
from ssmlens.training.build import check
from ssmlens.training.compare import compare
from ssmlens.training.config import TrainConfig
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path, sweep
from ssmlens.training.teacher import LayerRequest, like_teacher, score_layers


@dataclasses.dataclass(frozen=True)
class Student:
    """How an arm of the experiment came out, at its best learning rate for the training length.

    Attributes:
        arm: Its name.
        layer: The teacher's layer that it started as, or as the shuffled values of; None for default and mimetic.
        rate: That learning rate.
        accuracy: Mean over seeds of the share of characters right, by length.
        failed: Runs of the arm that failed.
    """

    arm: str
    layer: int | None
    rate: float
    accuracy: Mapping[int, float]
    failed: int


@dataclasses.dataclass(frozen=True)
class Transplants:
    """Students of a teacher's layers and the runs beside them.

    Attributes:
        layers: The teacher's layers that were transplanted, the best ranked first.
        ranking: Of all layers of the teacher, before any training.
        scores: Every score of each transplanted layer, NaN where it does not apply.
        runs: All runs: arms default, mimetic, "transplant 3", ..., and "shuffled 3" of the best ranked layer.
    """

    layers: tuple[int, ...]
    ranking: Ranking
    scores: Mapping[int, Mapping[str, float]]
    runs: Sequence[Run]

    def students(self) -> list[Student]:
        """The arms, the best first."""
        layers = {run.arm: run.teacher_layer for run in self.runs}
        students = []
        for arm in compare(self.runs).arms:
            best = [r for r in self.runs if (r.arm, r.learning_rate) == (arm.arm, arm.best_rate)]
            lengths = sorted({n for run in best for n in run.metrics.lengths()})
            accuracy = {n: fmean(run.metrics.final("char", n) for run in best) for n in lengths}
            students.append(Student(arm.arm, layers[arm.arm], arm.best_rate, accuracy, arm.failed))
        return students


def transplant(
    teacher: str,
    student: TrainConfig,
    out: Path | str,
    *,
    layers: Sequence[str] = ("all",),
    rates: Sequence[float] = (),
    seeds: Sequence[int] = (),
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Transplants:
    """Train one student per teacher layer, all of its layers a copy of that one, beside default, mimetic and shuffled.

    The teacher is captured first, into `out`/teacher.h5, and its layers are scored: no score knows the outcome. What
    was stopped goes on where it was, as in `sweep`.

    Args:
        teacher: A shipped model, a folder or a hub id.
        student: What the students learn; the shape of their mixers is the teacher's where this config leaves it open.
        out: Folder of teacher.h5 and of the run folders.
        layers: "all", or "top:K" for the K best ranked, or indices.
        rates: Learning rates of every arm; empty: the student's.
        seeds: Seeds of every arm; empty: the student's.
        progress: Called with (done, in all, what is being done).
        **options: Of `sweep`.

    Raises:
        UsageError: There is no such layer, or teacher and student do not fit.
        SsmlensError: The teacher cannot be loaded or captured.
    """
    out = Path(out)
    model = load_model(teacher)
    mixers = choose_mixers(model)
    request = LayerRequest.of(layers, [site.layer for site in mixers])
    shaped = like_teacher(student, mixers[0])
    for arm in _arms(shaped, teacher, [mixers[0].layer]):
        check(arm)
    with told_in_one_line(out, 0):
        out.mkdir(parents=True, exist_ok=True)
    ranking, scores = score_layers(model, out / "teacher.h5", progress)
    chosen = request.choose([row.layer for row in ranking])
    del model, mixers
    arms = _arms(shaped, teacher, chosen)
    configs = [
        dataclasses.replace(arm, learning_rate=rate, seed=seed)
        for rate in rates or (student.learning_rate,)
        for seed in seeds or (student.seed,)
        for arm in arms
    ]
    for config in configs:
        if config.teacher_layer is not None:
            with RunFolder(run_path(out, config), config) as folder:
                folder.keep_scores(config.teacher_layer, scores[config.teacher_layer])
    runs = sweep(configs, out, progress=progress, **options)
    return Transplants(tuple(chosen), ranking, {layer: scores[layer] for layer in chosen}, runs)


def _arms(student: TrainConfig, teacher: str, layers: Sequence[int]) -> list[TrainConfig]:
    """Default, mimetic, each layer's student, and the control of the best ranked one."""
    plain = dataclasses.replace(student, scope=None)
    of_teacher = dataclasses.replace(student, init="transplant", teacher=teacher)
    grown = [dataclasses.replace(of_teacher, teacher_layer=layer) for layer in layers]
    control = dataclasses.replace(grown[0], shuffled=True)
    return [plain, dataclasses.replace(plain, init="mimetic"), *grown, control]
