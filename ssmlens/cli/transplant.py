"""`ssmlens transplant`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ssmlens.cli.command import Result
from ssmlens.cli.progress import progress
from ssmlens.cli.text_table import text_table
from ssmlens.cli.train import config_of
from ssmlens.errors import UsageError
from ssmlens.training.config import TrainConfig, flag

# What each arm sets itself.
_OF_ARMS = ("init", "init_from", "teacher_layer", "shuffled", "arm", "components", "c")
# Scores that the table shows, after those that order it.
_SHOWN = ("mask_ones", "bc_effective", "diagonal_sharpness")


@dataclasses.dataclass(frozen=True)
class TransplantCommand(TrainConfig):
    """Train a student from each layer of a teacher, beside default, mimetic and shuffled, and set the layers' scores
    against what their students learn.

    The options are those of a student, as in ssmlens train; the shape of its mixers is the teacher's.
    """

    layers: tuple[str, ...] = ("all",)
    """The teacher's layers: all, top:K for the K best ranked, or indices."""
    student: Path | None = None
    """A JSON file with fields of a training config (the config.json of a run), instead of a student's options."""
    rates: tuple[float, ...] = ()
    """Learning rates of every arm. Default: --learning-rate."""
    seeds: tuple[int, ...] = ()
    """Seeds of every arm. Default: --seed."""
    out: Path | None = None
    """Folder of the experiment. Default: transplants/ and the teacher's name."""
    workers: int = 1
    """Processes that train side by side."""
    device: tuple[str, ...] = ("auto",)
    """Where: cpu, cuda, or several that workers take in turn."""
    shard: str | None = None
    """i/N: only the i-th N-th of the runs, for N launchers that a scheduler starts."""
    retry_failed: bool = False
    """Begin runs anew that have failed."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Do it."""
        from ssmlens.cli.shard import parse_shard
        from ssmlens.training.transplant import transplant

        if self.teacher is None:
            raise UsageError("--teacher is missing: a shipped model, a folder or a hub id")
        out = self.out or Path("transplants") / Path(self.teacher).name
        with progress(f"transplanting {self.teacher}") as tell:
            made = transplant(
                self.teacher,
                self.student_config(),
                out,
                layers=self.layers,
                rates=self.rates,
                seeds=self.seeds,
                workers=self.workers,
                devices=self.device,
                shard=parse_shard(self.shard) or (1, 1),
                retry_failed=self.retry_failed,
                progress=tell,
            )
        return _result(made, out)

    def student_config(self) -> TrainConfig:
        """What the students learn, without how they start."""
        for name in _OF_ARMS:
            if getattr(self, name) != getattr(TrainConfig, name):
                raise UsageError(f"{flag(name)} is what the arms differ in; leave it out")
        own = dataclasses.replace(config_of(self), teacher=None)
        if self.student is None:
            return own
        if own != TrainConfig():
            raise UsageError("--student goes without options of a student")
        try:
            read = json.loads(self.student.read_text(encoding="utf-8"))
            config = TrainConfig.from_dict(read)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"--student {self.student} cannot be read: {error}") from None
        start = {name: getattr(TrainConfig, name) for name in (*_OF_ARMS, "teacher", "scope")}
        return dataclasses.replace(config, **start)


def _result(made: Any, out: Path) -> Result:
    students = made.students()
    lengths = sorted({length for student in students for length in student.accuracy})
    ranks = {row.layer: row.rank for row in made.ranking}
    shown = list(dict.fromkeys([*made.ranking.by, *_SHOWN]))
    rows = [["arm", "rank", *shown, "rate", *(f"char at {n}" for n in lengths), "failed"]]
    told = []
    for student in students:
        scores = made.scores.get(student.layer, {})
        rank = ranks.get(student.layer)
        rows.append(
            [
                student.arm,
                "-" if rank is None else f"{rank:g}",
                *(_number(scores.get(name)) for name in shown),
                f"{student.rate:g}",
                *(_number(student.accuracy.get(n)) for n in lengths),
                str(student.failed),
            ]
        )
        plain = {name: _or_none(value) for name, value in scores.items()}
        accuracy = {str(n): _or_none(value) for n, value in student.accuracy.items()}
        data = dataclasses.asdict(student) | {"accuracy": accuracy, "rank": rank, "scores": plain}
        told.append(data)
    title = f"{len(made.runs)} runs in {out}; scores are of the teacher's layer, before training"
    more = f"open them with ssmlens dashboard {out}"
    data = {"out": str(out), "layers": list(made.layers), "students": told}
    return Result(data, "\n".join([title, text_table(rows), more]))


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _or_none(value: float) -> float | None:
    return None if value != value else value


COMMAND = TransplantCommand
