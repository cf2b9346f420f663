"""What a worker of the sweep does: train a pack of runs, then examine each."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

from analyses.components.exams import examine, give_up, is_examined
from ssmlens.models.device import find_device
from ssmlens.runs.run import Run
from ssmlens.training.config import TrainConfig
from ssmlens.training.engines.engine import Place
from ssmlens.training.loop import train_pack
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep_jobs import SweepJob


def train_and_examine(
    pack: Sequence[SweepJob],
    place: Place,
    told: Callable[[int, str, str], None],
    beat: Callable[[], None],
) -> None:
    """The work of `sweep`: a run that has ended well is told of once it is examined.

    What goes wrong in an exam is written into the run's status.json, and costs no run.
    """
    device = find_device(place.device)
    if device.index is not None:  # kernels run where the process is, not where their tensors are
        torch.cuda.set_device(device)
    torch.set_num_threads(max(1, _cores() // place.sharing))
    done = []

    def trained(job: int, state: str, why: str) -> None:
        if state == "done":
            done.append(job)
        else:
            told(job, state, why)

    jobs = [(job.path, job.config) for job in pack]
    train_pack(jobs, device=place.device, told=trained, beat=beat)
    for job in done:
        path, config = jobs[job]
        try:
            examine(path, config, device)
        except Exception as error:
            give_up(path, config, f"{type(error).__name__}: {error}")
        told(job, "done", "")
        beat()


def reopen(runs: Sequence[Run]) -> None:
    """Let a sweep take up again what was stopped between a run's last step and its exam."""
    for run in runs:
        left = run.status.state == "done" and not is_examined(run)
        if left and Path(run.path, "checkpoints", "last").exists():
            with RunFolder(run.path, TrainConfig.read(run.path / "config.json")) as folder:
                steps = run.status.steps or run.status.step
                folder.tell("running", run.status.step, steps, run.status.seconds)


@cache
def _cores() -> int:
    """Threads that torch takes by itself: asked for before it is told."""
    return torch.get_num_threads()
