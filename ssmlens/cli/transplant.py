"""`ssmlens transplant`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from ssmlens.cli.command import Result
from ssmlens.cli.compare import best_rate
from ssmlens.cli.config_options import config_of
from ssmlens.cli.progress import progress
from ssmlens.cli.sweep import failures
from ssmlens.cli.sweep_options import SweepOptions
from ssmlens.errors import UsageError
from ssmlens.options import flag
from ssmlens.text_table import text_table
from ssmlens.training.config import TrainConfig

# Fields that each arm sets itself.
_OF_ARMS = ("init", "init_from", "teacher_layer", "shuffled", "control", "arm", "components", "c")
# Scores that table and figure show, after those that rank the layers.
_DISPLAYED = ("mask_ones", "bc_effective", "diagonal_sharpness")


@dataclasses.dataclass(frozen=True)
class TransplantCommand(SweepOptions):
    """Train a student from each layer of a teacher, plus the arms default, mimetic and shuffled, and compare the
    layers' scores with the accuracy of their students.

    The options are a student's, as in ssmlens train; the shape of its mixers is the teacher's.
    """

    # The arms set the init; the teacher sets the mixers.
    first_page: ClassVar = (
        *("task", "length", "n_layer", "steps", "teacher", "layers", "rates", "seeds"),
        *("figure", "out", "workers", "device"),
    )

    layers: tuple[str, ...] = ("all",)
    """The teacher's layers: all, top:K for the K best ranked, or indices."""
    student: Path | None = None
    """A JSON file with a training config, such as a run's config.json, instead of a student's options."""
    rates: tuple[float, ...] = ()
    """Learning rates of every arm. Default: --learning-rate."""
    seeds: tuple[int, ...] = ()
    """Seeds of every arm. Default: --seed."""
    controls: tuple[str, ...] = ("best",)
    """Layers that get controls: best (the best ranked one) or all (of --layers).
    Controls to train: shuffled (the default), gaussian, memory-only, memory-out.
    See ssmlens train --init transplant --help."""
    figure: Path | None = None
    """Draw every score against the students' accuracy to this file, which is replaced:
    .html, or with ssmlens[export] .svg, .png or .pdf."""
    theme: Literal["light", "dark"] = "light"
    """Colours of --figure."""
    out: Path | None = None
    """Folder of the experiment. Default: transplants/ and the teacher's name."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Train the students and return the table."""
        transplants, out = self.train()
        result = _result(transplants, out)
        if self.figure is not None:
            draw(
                transplants.students(),
                displayed_scores(transplants.ranking.by),
                self.figure,
                self.theme,
            )
        return result

    def train(self) -> tuple[Any, Path]:
        """Train the students (`training.transplant.Transplants`); return them and their folder."""
        from ssmlens.training.transplant import transplant

        if self.figure is not None:
            _require_form(self.figure)
        teacher = config_of(self).teacher
        if teacher is None:
            raise UsageError("give --teacher: a shipped model, a folder or a hub id")
        out = self.out or Path("transplants") / Path(teacher).name
        with progress(f"transplanting {teacher}") as tell:
            transplants = transplant(
                teacher,
                self.student_config(),
                out,
                layers=self.layers,
                rates=self.rates,
                seeds=self.seeds,
                controls=self.controls,
                progress=tell,
                **self.sweep_arguments(),
            )
        return transplants, out

    def student_config(self) -> TrainConfig:
        """Return the students' config, without the fields of their init."""
        requested = config_of(self)
        for name in _OF_ARMS:
            if getattr(requested, name) != getattr(TrainConfig, name):
                raise UsageError(f"each arm sets {flag(name)}; leave it out")
        options = dataclasses.replace(requested, teacher=None)
        if self.student is None:
            return options
        if options != TrainConfig():
            raise UsageError("--student does not go with options of a student")
        try:
            config = TrainConfig.read(self.student)
        except UsageError as error:
            raise UsageError(f"--student: {error}") from None
        start = {name: getattr(TrainConfig, name) for name in (*_OF_ARMS, "teacher", "scope")}
        return dataclasses.replace(config, **start)


def displayed_scores(ranked_by: Sequence[str]) -> list[str]:
    """Return the names of the scores to show, those that rank the layers first."""
    return list(dict.fromkeys([*ranked_by, *_DISPLAYED]))


def rows(
    students: Sequence[Any], ranks: Mapping[int, float | None], scores: Sequence[str]
) -> list[list[str]]:
    """Return the students as a table: a header, then one row per arm; a range is over its seeds.

    First the mean over all rates at each length, then the accuracy of each seed at the rate that the others chose.
    """
    lengths = list(students[0].at)
    overall, best = ([f"{name} at {n}" for n in lengths] for name in ("all rates", "best"))
    table = [["arm", "rank", *scores, *overall, "best rate", *best, "seeds", "failed"]]
    for student in students:
        one, rank = student.at[lengths[0]], ranks.get(student.layer)
        table.append(
            [
                student.arm,
                "-" if rank is None else f"{rank:g}",
                *(_number(student.scores.get(name)) for name in scores),
                *(_over_seeds(arm.overall, arm.overall_spread) for arm in student.at.values()),
                best_rate(one),
                *(_over_seeds(arm.best, arm.best_spread) for arm in student.at.values()),
                str(one.seeds),
                str(one.failed),
            ]
        )
    return table


def _require_form(path: Path) -> None:
    from ssmlens.plot.image import FIGURE_FILES

    if path.suffix.lower() not in FIGURE_FILES:
        raise UsageError(f"--figure {path.name} ends in none of {', '.join(FIGURE_FILES)}")


def draw(students: Sequence[Any], scores: Sequence[str], path: Path, theme: Any) -> None:
    """Draw the figure of some students to a file."""
    from ssmlens.files.new import write_file
    from ssmlens.plot import students as students_figure
    from ssmlens.plot.image import figure_file

    figure = students_figure(students, scores, theme=theme)
    write_file(path, figure_file(figure, path.suffix.lower()))


def _result(transplants: Any, out: Path) -> Result:
    students = transplants.students()
    ranks = {row.layer: row.rank for row in transplants.ranking}
    table = text_table(rows(students, ranks, displayed_scores(transplants.ranking.by)))
    plain = [_plain(student, ranks.get(student.layer)) for student in students]
    title = (
        f"{len(transplants.runs)} runs in {out}; scores: of the teacher's layer, before training; "
        "other numbers: characters right"
    )
    hint = f"open them with ssmlens dashboard {out}"
    data = {"out": str(out), "layers": list(transplants.layers), "students": plain}
    failed = failures(transplants.runs)
    return Result(data, "\n".join([title, table, *failed, hint]), exit_code=int(bool(failed)))


def _plain(student: Any, rank: float | None) -> dict[str, Any]:
    one, *_ = student.at.values()
    measured = {
        str(n): {
            "all_rates": arm.overall,
            "least": arm.overall_spread[0],
            "most": arm.overall_spread[1],
            "best": arm.best,
        }
        for n, arm in student.at.items()
    }
    return {
        "arm": student.arm,
        "layer": student.layer,
        "control": student.control,
        "rank": rank,
        "scores": dict(student.scores),
        "rate": one.best_rate,
        "accuracy": measured,
        "seeds": one.seeds,
        "failed": one.failed,
    }


def _over_seeds(mean: float, spread: tuple[float, float]) -> str:
    low, high = spread
    return _number(mean) + (f" ({low:.3f}..{high:.3f})" if high > low else "")


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


COMMAND = TransplantCommand
