"""One teacher of the experiment: train it, score its layers, train its students; each step resumes where it stopped.

    python -m analyses.ranking.run --name P0 --text build/text/P --out build/ranking/P0 --devices cuda --minutes 9

Steps: teacher, score, students. Whatever is there below --out is not done
again, so that the same command is given until it says that all is done. Written to --results as it
goes: teacher.json (how it was trained, the scores of its layers) and results.json (the students). Students belong to
this very teacher: where --out is lost, all begins anew. README.md has the commands of a sitting.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from analyses.benchmarks.results import gpu_machine, machine
from analyses.ranking.experiment import (
    GATE,
    RATES,
    SEEDS,
    STUDENT,
    TEACHER,
    student_configs,
)
from analyses.ranking.scoring import score
from analyses.results_file import plain, plain_run
from analyses.sitting import options, sit
from ssmlens.adapters.load import load_model
from ssmlens.files.new import write_file
from ssmlens.inits.init import choose_mixers
from ssmlens.models.device import find_device
from ssmlens.runs.run import SCORES
from ssmlens.tasks.bytes import read_texts
from ssmlens.training.config import TrainConfig
from ssmlens.training.loop import train
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.session import Progress
from ssmlens.training.sweep import run_path, sweep
from ssmlens.training.teacher import like_teacher

STEPS = ("teacher", "score", "students")
RECORD = "teacher.json"
# Steps between two checkpoints of the teacher: at most these are lost when time ends.
_CHECKPOINT = 300


class _TimeUpError(Exception):
    pass


def main() -> None:
    """Run the missing steps until time is up."""
    began = time.monotonic()
    arguments = _options().parse_args()
    arguments.results = arguments.results or Path(__file__).parent / "results" / arguments.name
    ends = began + 60 * arguments.minutes
    device = find_device(arguments.devices[0])
    if device.index is not None:  # kernels run where the process is
        torch.cuda.set_device(device)

    def watch(what: str) -> Callable[..., None]:
        def progress(*now: Any) -> None:
            if time.monotonic() > ends:
                raise _TimeUpError
            print(f"{time.monotonic() - began:.0f} s: {what} {_words(*now)}", flush=True)

        return progress

    try:
        if "teacher" in arguments.only:
            train_teacher(arguments, watch("teacher"))
        if "score" in arguments.only:
            score_teacher(arguments, device, watch("scoring"))
    except _TimeUpError:
        print("time is up; give the same command again", flush=True)
        return
    finally:
        if (arguments.out / RECORD).exists():
            write_file(_folder(arguments.results) / RECORD, (arguments.out / RECORD).read_bytes())
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if "students" in arguments.only:
        arguments.minutes = (ends - time.monotonic()) / 60
        train_students(arguments)


def train_teacher(arguments: argparse.Namespace, progress: Callable[..., None]) -> None:
    """Train the teacher and write its results."""
    stored = _read_record(arguments)
    if "run" in stored:
        return
    own = {"text": str(arguments.text), "seed": arguments.seed, "arm": ""}
    config = TrainConfig.from_dict(TEACHER.to_dict() | own | json.loads(arguments.teacher))
    run = train(
        config,
        arguments.out / "teacher",
        resume=True,
        device=arguments.devices[0],
        checkpoint_every=_CHECKPOINT,
        progress=progress,
    )
    texts = read_texts(Path(arguments.text))
    corpus: dict[str, Any] = {"works": len(texts.works), "bytes": sum(texts.works.values())}
    corpus["held_out"] = {name: texts.works[name] for name in texts.kept_back}
    on_gpu = find_device(arguments.devices[0]).type == "cuda"
    record = {"name": arguments.name, "machine": gpu_machine() if on_gpu else machine()}
    record |= {"corpus": corpus, "config": dict(run.config), "run": plain_run(run)}
    _write_record(arguments, record)


def score_teacher(
    arguments: argparse.Namespace, device: torch.device, progress: Callable[..., None]
) -> None:
    """Score the teacher's layers and write the scores."""
    stored = _read_record(arguments)
    if "scores" in stored:
        return
    model = load_model(_checkpoint(arguments), device=str(device), backend="torch")
    ranked, scores = score(model, arguments.out / "teacher.h5", progress)
    by_layer = {str(n): {name: plain(v) for name, v in scores[n].items()} for n in sorted(scores)}
    char = stored["run"]["eval"]["64"]["char"][-1] if "64" in stored["run"]["eval"] else None
    gate = None if char is None else char >= GATE
    _write_record(arguments, {**stored, "gate": gate, "ranked": ranked, "scores": by_layer})


def train_students(arguments: argparse.Namespace) -> None:
    """Train the missing students."""
    stored = _read_record(arguments)
    if "scores" not in stored:
        raise SystemExit("there is no score yet: the steps before are teacher and score")
    (site, *_) = choose_mixers(load_model(_checkpoint(arguments), backend="torch"))
    steps = {"steps": arguments.steps} if arguments.steps else {}
    student = TrainConfig.from_dict(
        STUDENT.to_dict() | {"arm": ""} | json.loads(arguments.student) | steps
    )
    shaped = like_teacher(student, site)
    configs = student_configs(
        shaped, _checkpoint(arguments), stored["ranked"], arguments.rates, arguments.seeds
    )
    arguments.out = arguments.out / "students"

    def do(**where: Any) -> None:
        for config in configs:
            if config.teacher_layer is not None:
                _keep_scores(arguments.out, config, stored["scores"][str(config.teacher_layer)])
        sweep(configs, arguments.out, **where)
        print(f"all {len(configs)} students are done", flush=True)

    sit(
        arguments,
        do,
        lambda: {"name": stored["name"], "ranked": stored["ranked"], "gate": stored["gate"]},
    )


def _options() -> argparse.ArgumentParser:
    assert __doc__
    parser = options(__doc__, None, RATES, SEEDS)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", choices=STEPS, nargs="+", default=STEPS, help="of these steps")
    parser.add_argument("--name", required=True, help="P0, C0, P1 or C1: corpus and seed")
    parser.add_argument("--text", help="folder of the corpus")
    parser.add_argument("--seed", type=int, default=0, help="seed of the teacher")
    parser.add_argument("--teacher", default="{}", help="JSON, other fields of it, for a trial")
    parser.add_argument("--student", default="{}", help="JSON, other fields of it, for a trial")
    return parser


def _checkpoint(arguments: argparse.Namespace) -> str:
    return str(arguments.out / "teacher" / "checkpoints" / "last")


def _read_record(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read the teacher's results so far."""
    file = arguments.out / RECORD
    return json.loads(file.read_text()) if file.exists() else {}


def _write_record(arguments: argparse.Namespace, stored: dict[str, Any]) -> None:
    write_file(arguments.out / RECORD, (json.dumps(stored, indent=1) + "\n").encode())


def _folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _keep_scores(out: Path, config: TrainConfig, scores: dict[str, float | None]) -> None:
    path = run_path(out, config)
    if not (path / SCORES).exists():
        values = {name: math.nan if value is None else value for name, value in scores.items()}
        with RunFolder(path, config) as folder:
            folder.write_scores(config.teacher_layer or 0, values)


def _words(*now: Any) -> str:
    """Print the progress of `train` or `capture`."""
    if len(now) == 1 and isinstance(now[0], Progress):
        return f"step {now[0].step} of {now[0].steps}, loss {now[0].loss:.3f}, accuracy {now[0].char:.3f}"
    return " ".join(map(str, now))


if __name__ == "__main__":
    main()
