"""Which layer of a trained model is a good start? A student from each, beside the arms that they are held against."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from ssmlens.adapters.find import MixerSite
from ssmlens.adapters.generations import Mamba1Adapter, Mamba2Adapter
from ssmlens.errors import UsageError
from ssmlens.inits.init import choose_mixers
from ssmlens.models.load import load_model
from ssmlens.recorder.capture import capture
from ssmlens.scores.order import rank
from ssmlens.scores.ranking import Ranking
from ssmlens.scores.table import compute, summary
from ssmlens.store.disk import told_in_one_line
from ssmlens.store.runs import Run
from ssmlens.training.build import check
from ssmlens.training.compare import compare
from ssmlens.training.config import TrainConfig, flag
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path, sweep

_TOP = re.compile(r"top:(\d+)")
_SHAPE = ("mixer", "d_model", "expand", "d_state", "d_conv", "headdim", "ngroups")


@dataclasses.dataclass(frozen=True)
class _Request:
    """The teacher's layers that are asked for: so many of the best, or these."""

    top: int
    these: frozenset[int]

    @classmethod
    def of(cls, words: Sequence[str], there: Sequence[int]) -> "_Request":
        """From "all", "top:K" or indices; raises UsageError for anything else."""
        if list(words) == ["all"]:
            return cls(len(there), frozenset(there))
        top = _TOP.fullmatch(words[0]) if len(words) == 1 else None
        if top and 1 <= int(top[1]) <= len(there):
            return cls(int(top[1]), frozenset(there))
        if not words or not all(word.isdecimal() for word in words):
            raise UsageError(
                f"--layers {' '.join(words)}: give all, top:K (K in 1..{len(there)}), or indices"
            )
        these = frozenset(map(int, words))
        for layer in sorted(these - set(there)):
            raise UsageError(
                f"--layers {layer}: the teacher has Mamba mixers in {', '.join(map(str, there))}"
            )
        return cls(len(these), these)

    def choose(self, ranked: Sequence[int]) -> list[int]:
        """Of the layers, best first, those that are asked for."""
        return [layer for layer in ranked if layer in self.these][: self.top]


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
    request = _Request.of(layers, [site.layer for site in mixers])
    shaped = like_teacher(student, mixers[0])
    for arm in _arms(shaped, teacher, [mixers[0].layer]):
        check(arm)
    with told_in_one_line(out, 0):
        out.mkdir(parents=True, exist_ok=True)
    ranking, scores = _score(model, out / "teacher.h5", progress)
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


def like_teacher(student: TrainConfig, site: MixerSite) -> TrainConfig:
    """The student with the shape of the teacher's mixer, where its config leaves the default.

    Raises:
        UsageError: The mixer is of neither Mamba-1 nor Mamba-2.
    """
    shape = _shape(site)
    taken = {n: shape[n] for n in shape if getattr(student, n) == getattr(TrainConfig, n)}
    for name, value in shape.items():
        if name not in taken and getattr(student, name) != value:
            raise UsageError(
                f"{flag(name)} {getattr(student, name)} does not fit the teacher, whose layer "
                f"{site.layer} has {value}; leave it out"
            )
    return dataclasses.replace(student, **taken)


def _shape(site: MixerSite) -> dict[str, Any]:
    adapter, module = site.adapter, site.module
    if isinstance(adapter, Mamba2Adapter):
        two = adapter.named_weights(module)
        d_model, d_inner = two.out_proj_weight.shape
        own = {"mixer": "Mamba2", "headdim": two.headdim, "ngroups": two.ngroups}
        conv, d_state = two.conv_weight, two.d_state
    elif isinstance(adapter, Mamba1Adapter):
        one = adapter.named_weights(module)
        d_model, d_inner = one.out_proj_weight.shape
        own, conv, d_state = {"mixer": "Mamba1"}, one.conv_weight, one.A_log.shape[1]
    else:
        raise UsageError(
            f"teacher layer {site.layer} is {adapter.family}; students are Mamba-1 or Mamba-2"
        )
    sizes = {"d_model": d_model, "expand": d_inner // d_model, "d_state": d_state}
    return {**own, **sizes, "d_conv": conv.shape[1]}


def _arms(student: TrainConfig, teacher: str, layers: Sequence[int]) -> list[TrainConfig]:
    """Default, mimetic, each layer's student, and the control of the best ranked one."""
    plain = dataclasses.replace(student, scope=None)
    of_teacher = dataclasses.replace(student, init="transplant", teacher=teacher)
    grown = [dataclasses.replace(of_teacher, teacher_layer=layer) for layer in layers]
    control = dataclasses.replace(grown[0], shuffled=True)
    return [plain, dataclasses.replace(plain, init="mimetic"), *grown, control]


def _score(
    model: nn.Module, file: Path, progress: Callable[[int, int, str], None] | None
) -> tuple[Ranking, dict[int, dict[str, float]]]:
    """The ranking of the teacher's Mamba layers, and all scores of each."""
    mixers = [site.layer for site in choose_mixers(model)]
    captured = capture(model, None, file, layers=mixers, overwrite=True, progress=progress)
    assert captured is not None
    with captured:
        table = compute(captured)
    means = summary(table).sel(statistic="mean")
    scores = {
        layer: {name: _plain(means[name].sel(layer=layer)) for name in map(str, means)}
        for layer in mixers
    }
    return rank(table), scores


def _plain(value: Any) -> float:
    return float(value) if value.size == 1 else math.nan
