"""Which layer of a trained model is a good start? A student from each, beside the arms that they are held against."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssmlens.adapters.load import load_model
from ssmlens.errors import UsageError
from ssmlens.inits.init import choose_mixers
from ssmlens.inits.transplant import CONTROLS
from ssmlens.runs.run import Run
from ssmlens.runs.students import Student, students
from ssmlens.scores.ranking import Ranking
from ssmlens.store.disk import told_in_one_line
from ssmlens.training.config import TrainConfig
from ssmlens.training.plan import check
from ssmlens.training.run_folder import BusyError, RunFolder
from ssmlens.training.sweep import run_path, sweep
from ssmlens.training.teacher import LayerRequest, like_teacher, score_layers

OF_LAYERS = ("best", "all")
"""Which layers have controls."""
_CONTROL: dict[str, dict[str, Any]] = {
    name: {"shuffled": True} if name == "shuffled" else {"control": name} for name in CONTROLS
}


@dataclasses.dataclass(frozen=True)
class Transplants:
    """Students of a teacher's layers and the runs beside them.

    Attributes:
        layers: The teacher's layers that were transplanted, the best ranked first.
        ranking: Of all layers of the teacher, before any training.
        runs: All runs: arms default, mimetic, "transplant 3", ..., and "shuffled 3", ....
    """

    layers: tuple[int, ...]
    ranking: Ranking
    runs: Sequence[Run]

    def students(self) -> list[Student]:
        """The arms, the best first."""
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
        controls: The layers whose controls are trained as well, "best" (that of the best ranked) or "all"; and which
            controls, some of `inits.transplant.CONTROLS`: shuffled where none is named. Where a layer's shuffled
            values do nearly as well as the layer, it is its values that help, not their structure: one control cannot
            tell which of several layers that holds for.
        progress: Called with (done, in all, what is being done).
        **options: Of `sweep`.

    Raises:
        UsageError: There is no such layer or control, or teacher and student do not fit.
        SsmlensError: The teacher cannot be loaded or captured.
    """
    out, beside = Path(out), _Beside.of(controls)
    model = load_model(teacher)
    mixers = choose_mixers(model)
    request = LayerRequest.of(layers, [site.layer for site in mixers])
    shaped = like_teacher(student, mixers[0])
    for arm in _arms(shaped, teacher, [mixers[0].layer], beside):
        check(arm)
    _check_each(shaped, "`rates`", "learning_rate", rates)
    _check_each(shaped, "`seeds`", "seed", seeds)
    with told_in_one_line(out, 0):
        out.mkdir(parents=True, exist_ok=True)
    ranking, scores = score_layers(model, out / "teacher.h5", progress)
    chosen = request.choose([row.layer for row in ranking])
    del model, mixers
    configs = [  # a seed's whole grid first: what is stopped can be compared
        dataclasses.replace(arm, learning_rate=rate, seed=seed)
        for seed in seeds or (student.seed,)
        for rate in rates or (student.learning_rate,)
        for arm in _arms(shaped, teacher, chosen, beside)
    ]
    _keep_scores(configs, out, scores)
    runs = sweep(configs, out, progress=progress, **options)
    return Transplants(tuple(chosen), ranking, runs)


def _keep_scores(
    configs: Sequence[TrainConfig], out: Path, scores: Mapping[int, Mapping[str, float]]
) -> None:
    """Write the scores of its teacher's layer into the folder of each run that has one."""
    for config in configs:
        if config.teacher_layer is not None:
            # Another launcher that holds the folder has told it there.
            with suppress(BusyError), RunFolder(run_path(out, config), config) as folder:
                folder.keep_scores(config.teacher_layer, scores[config.teacher_layer])


@dataclasses.dataclass(frozen=True)
class _Beside:
    """The controls of an experiment: of all layers or the best alone, and of which kinds."""

    all_layers: bool
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, asked: str | Sequence[str]) -> "_Beside":
        words = [asked] if isinstance(asked, str) else list(asked)
        for word in words:
            if word not in (*OF_LAYERS, *CONTROLS):
                told = ", ".join((*OF_LAYERS, *CONTROLS))
                raise UsageError(f"`controls` {word}: choose from {told}")
        if set(OF_LAYERS) <= set(words):
            raise UsageError("`controls`: give best or all, not both")
        kinds = tuple(name for name in CONTROLS if name in words)
        return cls("all" in words, kinds or ("shuffled",))


def _check_each(
    student: TrainConfig, option: str, field: str, values: Sequence[float | int]
) -> None:
    """Raise UsageError, by its option, for a value that the student's field cannot have."""
    for value in values:
        try:
            check(dataclasses.replace(student, **{field: value}))
        except UsageError as error:
            raise UsageError(f"{option} {value:g}: {error}") from None


def _arms(
    student: TrainConfig, teacher: str, layers: Sequence[int], beside: _Beside
) -> list[TrainConfig]:
    """Default, mimetic, each layer's student, and the controls; the layers come the best ranked first."""
    plain = dataclasses.replace(student, scope=None)
    of_teacher = dataclasses.replace(student, init="transplant", teacher=teacher)
    grown = [dataclasses.replace(of_teacher, teacher_layer=layer) for layer in layers]
    held_against = grown if beside.all_layers else grown[:1]
    controls = [
        dataclasses.replace(arm, **_CONTROL[kind]) for kind in beside.kinds for arm in held_against
    ]
    return [plain, dataclasses.replace(plain, init="mimetic"), *grown, *controls]
