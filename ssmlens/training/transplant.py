"""Which layer of a trained model is a good start? One student per layer, and the arms that they are compared with."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssmlens.adapters.load import load_model
from ssmlens.errors import BusyError, UsageError
from ssmlens.files.disk import one_line_errors
from ssmlens.inits.init import choose_mixers
from ssmlens.inits.transplant import CONTROLS
from ssmlens.runs.run import Run
from ssmlens.runs.students import Student, students
from ssmlens.scores.ranking import Ranking
from ssmlens.training.config import TrainConfig
from ssmlens.training.plan import check
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path, sweep
from ssmlens.training.teacher import LayerRequest, like_teacher, score_layers

OF_LAYERS = ("best", "all")
"""Choices for the layers that have controls."""
_CONTROL: dict[str, dict[str, Any]] = {
    name: {"shuffled": True} if name == "shuffled" else {"control": name} for name in CONTROLS
}


@dataclasses.dataclass(frozen=True)
class Transplants:
    """Students of a teacher's layers and the runs that they are compared with.

    Attributes:
        layers: The teacher's layers that were transplanted, the best ranked first.
        ranking: Ranking of all layers of the teacher, before any training.
        runs: All runs: arms default, mimetic, "transplant 3", ..., and "shuffled 3", ....
    """

    layers: tuple[int, ...]
    ranking: Ranking
    runs: Sequence[Run]

    def students(self) -> list[Student]:
        """Return the arms, the best first."""
        return students(self.runs)


def transplant(
    teacher: str,
    student: TrainConfig,
    out: Path | str,
    *,
    layers: Sequence[str] = ("all",),
    rates: Sequence[float] = (),
    seeds: Sequence[int] = (),
    controls: str | Sequence[str] = "best",
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Transplants:
    """Train one student per teacher layer, all of its layers copies of that one, and the arms to compare them with.

    These arms are default, mimetic and the controls. The teacher is captured first, into `out`/teacher.h5, and its
    layers are scored, so no score knows the outcome. A stopped experiment resumes, as in `sweep`.

    Args:
        teacher: A shipped model, a folder or a hub id.
        student: The students' config; its mixers take the teacher's shape in fields that have their default.
        out: Folder of teacher.h5 and of the run folders.
        layers: "all", or "top:K" for the K best ranked, or indices.
        rates: Learning rates of every arm; empty: the student's.
        seeds: Seeds of every arm; empty: the student's.
        controls: The layers that get controls, "best" (the best ranked) or "all"; and the controls to train, some of
            `inits.transplant.CONTROLS` (default: shuffled). If a layer's shuffled values do nearly as well as the
            layer, its values help, not their structure; with "best" that is known for one layer only.
        progress: Called with (count, total, label).
        **options: Arguments of `sweep`.

    Raises:
        UsageError: A layer or control does not exist, or teacher and student do not fit.
        SsmlensError: The teacher cannot be loaded or captured.
    """
    out, requested = Path(out), _Controls.parse(controls)
    model = load_model(teacher)
    mixers = choose_mixers(model)
    request = LayerRequest.parse(layers, [site.layer for site in mixers])
    shaped = like_teacher(student, mixers[0])
    for arm in _arms(shaped, teacher, [mixers[0].layer], requested):
        check(arm)
    _check_each(shaped, "`rates`", "learning_rate", rates)
    _check_each(shaped, "`seeds`", "seed", seeds)
    with one_line_errors(out, 0):
        out.mkdir(parents=True, exist_ok=True)
    ranking, scores = score_layers(model, out / "teacher.h5", progress)
    selected = request.choose([row.layer for row in ranking])
    del model, mixers
    configs = [  # the complete grid of a seed first: a stopped experiment can be compared
        dataclasses.replace(arm, learning_rate=rate, seed=seed)
        for seed in seeds or (student.seed,)
        for rate in rates or (student.learning_rate,)
        for arm in _arms(shaped, teacher, selected, requested)
    ]
    _write_scores(configs, out, scores)
    runs = sweep(configs, out, progress=progress, **options)
    return Transplants(tuple(selected), ranking, runs)


def _write_scores(
    configs: Sequence[TrainConfig], out: Path, scores: Mapping[int, Mapping[str, float]]
) -> None:
    """Write the scores of the teacher's layer into the folder of each run that starts from one."""
    for config in configs:
        if config.teacher_layer is not None:
            # If another launcher holds the folder, it has written them.
            with suppress(BusyError), RunFolder(run_path(out, config), config) as folder:
                folder.write_scores(config.teacher_layer, scores[config.teacher_layer])


@dataclasses.dataclass(frozen=True)
class _Controls:
    """The controls of an experiment: for all layers or only the best, and their kinds."""

    all_layers: bool
    kinds: tuple[str, ...]

    @classmethod
    def parse(cls, requested: str | Sequence[str]) -> "_Controls":
        words = [requested] if isinstance(requested, str) else list(requested)
        for word in words:
            if word not in (*OF_LAYERS, *CONTROLS):
                choices = ", ".join((*OF_LAYERS, *CONTROLS))
                raise UsageError(f"`controls` {word}: choose from {choices}")
        if set(OF_LAYERS) <= set(words):
            raise UsageError("`controls`: give best or all, not both")
        kinds = tuple(name for name in CONTROLS if name in words)
        return cls("all" in words, kinds or ("shuffled",))


def _check_each(
    student: TrainConfig, option: str, field: str, values: Sequence[float | int]
) -> None:
    """Raise UsageError, naming the option, for a value that the student's field cannot have."""
    for value in values:
        try:
            check(dataclasses.replace(student, **{field: value}))
        except UsageError as error:
            raise UsageError(f"{option} {value:g}: {error}") from None


def _arms(
    student: TrainConfig, teacher: str, layers: Sequence[int], controls: _Controls
) -> list[TrainConfig]:
    """Return the arms default, mimetic, each layer's student, and the controls; layers come best ranked first."""
    plain = dataclasses.replace(student, scope=None)
    of_teacher = dataclasses.replace(student, init="transplant", teacher=teacher)
    transplants = [dataclasses.replace(of_teacher, teacher_layer=layer) for layer in layers]
    controlled = transplants if controls.all_layers else transplants[:1]
    control_arms = [
        dataclasses.replace(arm, **_CONTROL[kind]) for kind in controls.kinds for arm in controlled
    ]
    return [plain, dataclasses.replace(plain, init="mimetic"), *transplants, *control_arms]
