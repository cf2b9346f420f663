"""`train`: a config and a folder in, a trained model and its curve in the folder."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.recorder.capture import capture
from ssmlens.recorder.prompts import from_task
from ssmlens.store.run_metrics import EVAL, TRAIN
from ssmlens.store.runs import METRICS, Run, open_run
from ssmlens.training import checkpoints
from ssmlens.training.build import check
from ssmlens.training.config import TrainConfig
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.trackers import Tracker, find_tracker
from ssmlens.training.trainee import Trainee

# Training loss is the mean over this many steps; whether it is finite is looked at as often.
_LOG_EVERY = 10
# Prompts of a capture.
_PROMPTS = 4


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        loss: Mean training loss of the last steps; NaN before there is any.
        char: Share of characters right at the training length, when it was last measured; NaN before.
        seconds: Spent so far, earlier sittings included.
    """

    step: int
    steps: int
    loss: float
    char: float
    seconds: float


class TrainingError(SsmlensError):
    """Training cannot go on: the loss is no number."""


def train(
    config: TrainConfig,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    checkpoint_every: int = 500,
    trackers: Iterable[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Train a model; its folder is a run as `store.runs` reads it, with checkpoints that `load_model` opens.

    >>> run = ssmlens.train(TrainConfig(task="copy", length=20, init="mimetic"), "runs/mimetic")
    >>> model = ssmlens.load_model("runs/mimetic/checkpoints/last")

    A resumed run has the curve of an uninterrupted one: bit for bit on a CPU with as many threads.

    Args:
        config: What is trained.
        out: The run's folder. None: the config's name, below runs/.
        resume: Go on from the last checkpoint, or from the start where there is none; a run that is done is returned.
        device: cpu, cuda, cuda:1, ...; auto is cuda where there is one.
        checkpoint_every: Steps between checkpoints; there is one at the end in any case.
        trackers: Some of trackio, wandb, tensorboard, which are told all that metrics.jsonl is.
        progress: Called now and then.

    Raises:
        UsageError: The config cannot be trained, or the folder has a run already (or another one, with `resume`).
        TrainingError: The loss is not finite; status.json says so, too.
        SsmlensError: The disk is full, or a capture failed.
    """
    check(config)
    where, starts = _device(device), [find_tracker(name) for name in trackers]
    out = Path("runs", config.name) if out is None else Path(out)
    if not resume and (out / METRICS).exists():
        raise UsageError(
            f"{out} has a run already; --resume goes on with it, --out NAME is another"
        )
    trainee = Trainee(config, where)  # before there is a folder: it may be refused
    with ExitStack() as held:
        folder = held.enter_context(RunFolder(out, config))
        if resume and open_run(out).status.state == "done":
            return open_run(out)
        followers = [held.enter_context(start(out, config)) for start in starts]
        job = _Training(config, folder, followers, progress or (lambda told: None))
        try:
            job.run(trainee, checkpoint_every)
        except BaseException as error:
            with suppress(SsmlensError):  # the disk is full: what stopped the run says more
                job.fail(error)
            raise
    return open_run(out)


class _Training:
    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        trackers: list[Tracker],
        progress: Callable[[Progress], None],
    ):
        self.config, self.folder = config, folder
        self._trackers, self._progress = trackers, progress
        self._step, self._loss, self._char = 0, float("nan"), float("nan")
        self._before, self._began = 0.0, time.monotonic()

    def run(self, trainee: Trainee, checkpoint_every: int) -> None:
        """From the last checkpoint, or the start, to the end."""
        config = self.config
        losses = self._take_up(trainee)
        if trainee.step == 0:
            self._look(trainee)
        while trainee.step < config.steps:
            losses.append(trainee.train_step())
            step = self._step = trainee.step
            last = step == config.steps
            if last or step % _LOG_EVERY == 0:
                self._log(losses)
                losses.clear()
            if last or step % config.eval_every == 0 or step in config.capture_at:
                self._look(trainee)
            if last or step % checkpoint_every == 0:
                self._require_finite(losses)
                self.folder.sync()
                told = {"losses": [float(loss) for loss in losses], "seconds": self._seconds}
                checkpoints.save(self.folder.path / "checkpoints", trainee, told)
        self.folder.tell("done", config.steps, config.steps, self._seconds)

    def fail(self, error: BaseException) -> None:
        """Say in status.json why it ended."""
        told = str(error) if isinstance(error, SsmlensError) else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            told = "interrupted; --resume goes on"
        line = " ".join(told.split())[:1000]
        self.folder.tell("failed", self._step, self.config.steps, self._seconds, line)

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def _take_up(self, trainee: Trainee) -> list[Any]:
        """Go on from the last checkpoint; returns the losses that are not logged yet."""
        told = checkpoints.load(self.folder.path / "checkpoints", trainee)
        self.folder.cut_back(trainee.step if told else -1)
        self._step = trainee.step
        self._before = told["seconds"] if told else 0.0
        self.folder.tell("running", self._step, self.config.steps, self._seconds)
        return list(told["losses"]) if told else []

    def _log(self, losses: list[Any]) -> None:
        self._require_finite(losses)
        self._loss = sum(map(float, losses)) / len(losses)
        self._measured(TRAIN, None, {"loss": self._loss})
        self.folder.tell("running", self._step, self.config.steps, self._seconds)
        self._report()

    def _look(self, trainee: Trainee) -> None:
        """Measure accuracy, where it is time to, and capture the maps where that was asked for."""
        config, step = self.config, trainee.step
        if step % config.eval_every == 0 or step == config.steps:
            for length in config.lengths:
                values = trainee.evaluate(length)
                if length == config.lengths[0]:
                    self._char = values["char"]
                self._measured(EVAL, length, values)
            self._report()
        if step in config.capture_at:
            exam = dataclasses.replace(trainee.exam(config.length), count=_PROMPTS)
            folder = self.folder.path / "captures"
            folder.mkdir(exist_ok=True)
            prompts = from_task(config.task, exam, config.seed)
            made = capture(
                trainee.model.eval(), prompts, folder / f"step-{step:06}.h5", overwrite=True
            )
            assert made is not None
            made.close()

    def _measured(self, split: str, length: int | None, values: dict[str, float]) -> None:
        self.folder.measure(self._step, split, length, **values)
        for tracker in self._trackers:
            tracker.log(self._step, split, length, values)

    def _report(self) -> None:
        steps = self.config.steps
        self._progress(Progress(self._step, steps, self._loss, self._char, self._seconds))

    def _require_finite(self, losses: list[Any]) -> None:
        for back, loss in enumerate(reversed(losses)):
            if not torch.isfinite(torch.as_tensor(loss)):
                raise TrainingError(
                    f"the loss is {float(loss)} at step {self._step - back} (learning rate "
                    f"{self.config.learning_rate:g}); try a lower one, or --clip 1"
                )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name!r} is unknown; such as cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name} is asked for, but torch finds no CUDA here; use cpu")
    return device
