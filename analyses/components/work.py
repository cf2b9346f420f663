"""A sweep whose runs are examined: a worker trains a pack of runs and then examines each."""

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from analyses.components.exams import examine, give_up, is_examined
from analyses.results_file import runs_below
from analyses.sitting import sit
from ssmlens.models.device import find_device
from ssmlens.runs.run import Run
from ssmlens.training.config import TrainConfig
from ssmlens.training.engines.engine import Place
from ssmlens.training.loop import train_pack
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import sweep
from ssmlens.training.sweep_jobs import SweepJob


def sit_and_examine(arguments: argparse.Namespace, todo: Sequence[TrainConfig]) -> None:
    """Train and examine the runs that are not done. See `sitting.sit`.

    Args:
        arguments: The values of `sitting.options`.
        todo: Every run of the experiment.
    """

    def train(**where: Any) -> None:
        reopen(runs_below(arguments.out))
        sweep(todo, arguments.out, work=train_and_examine, **where)

    sit(arguments, train, complete=is_examined)


def train_and_examine(
    pack: Sequence[SweepJob],
    place: Place,
    report: Callable[[int, str, str], None],
    beat: Callable[[], None],
) -> None:
    """The work of `sweep`. It reports a trained run as done after its exam.

    An error in an exam is written into the run's status.json. The run counts as done all the same.
    """
    device = find_device(place.device)
    if (
        device.index is not None
    ):  # kernels run on the process's current device, not on that of their tensors
        torch.cuda.set_device(device)
    torch.set_num_threads(max(1, _cores() // place.sharing))
    done = []

    def trained(job: int, state: str, why: str) -> None:
        if state == "done":
            done.append(job)
        else:
            report(job, state, why)

    jobs = [(job.path, job.config) for job in pack]
    train_pack(jobs, device=place.device, report=trained, beat=beat)
    for job in done:
        path, config = jobs[job]
        try:
            examine(path, config, device)
        except Exception as error:
            give_up(path, config, f"{type(error).__name__}: {error}")
        report(job, "done", "")
        beat()


def reopen(runs: Sequence[Run]) -> None:
    """Let a sweep resume runs that were stopped between their last step and their exam."""
    for run in runs:
        left = run.status.state == "done" and not is_examined(run)
        if left and Path(run.path, "checkpoints", "last").exists():
            with RunFolder(run.path, TrainConfig.read(run.path / "config.json")) as folder:
                steps = run.status.steps or run.status.step
                folder.write_status("running", run.status.step, steps, run.status.seconds)


@cache
def _cores() -> int:
    """Threads that torch uses by default. Cached before `set_num_threads` changes the number."""
    return torch.get_num_threads()
