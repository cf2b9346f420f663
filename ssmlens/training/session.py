"""A sitting at one run: what is measured, told and kept after a step, from its last checkpoint to its end."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import SsmlensError
from ssmlens.files.new import ensure_folder
from ssmlens.recorder.capture import capture
from ssmlens.recorder.prompts import from_task
from ssmlens.runs.metrics import EVAL, TRAIN
from ssmlens.runs.run import CHECKPOINTS
from ssmlens.training import checkpoints
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.trackers import Tracker
from ssmlens.training.trainee import Trainee

# Training loss is the mean over this many steps; whether it is finite is looked at as often.
_LOG_EVERY = 10
# Seconds between two status.json of a run that goes on: each waits for the disk.
_STATUS_EVERY = 1.0
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


class Session:
    """A run at work: its trainee and its folder. `begin`; then whoever makes the trainee step tells `stepped` its loss.

    Args:
        trainee: The model, its weights as they start.
        folder: The run's folder.
        trackers: What is told all that metrics.jsonl is.
        progress: Called now and then.
        checkpoint_every: Steps between checkpoints; there is one at the end in any case.
        keep_checkpoints: Keep them all, not the last alone.
    """

    def __init__(
        self,
        trainee: Trainee,
        folder: RunFolder,
        *,
        trackers: Sequence[Tracker] = (),
        progress: Callable[[Progress], None] = lambda told: None,
        checkpoint_every: int = 500,
        keep_checkpoints: bool = False,
    ):
        self.config, self.trainee, self.folder = trainee.config, trainee, folder
        self._trackers, self._progress = trackers, progress
        self._checkpoint_every, self._keep_checkpoints = checkpoint_every, keep_checkpoints
        self._step, self._loss, self._char = 0, float("nan"), float("nan")
        self._before, self._began, self._told = 0.0, time.monotonic(), 0.0
        self._losses: list[Tensor] = []  # those that are not logged yet

    def begin(self) -> None:
        """Go on from the last checkpoint, or measure the start.

        Raises:
            SsmlensError: The disk is full, or a capture failed.
        """
        trainee, folder = self.trainee, self.folder
        told = checkpoints.load(folder.path / "checkpoints", trainee)
        folder.cut_back(trainee.step if told else -1)
        self._step = trainee.step
        if told:
            self._before = told["seconds"]
            self._losses = list(torch.tensor(told["losses"], device=trainee.device))
        self._tell("done" if self.done else "running")  # stopped right after its last checkpoint
        if self._step == 0:
            self._look()

    @property
    def done(self) -> bool:
        """Whether the last step is done, and all that follows it."""
        return self._step == self.config.steps

    def stepped(self, loss: Float[Tensor, ""]) -> None:
        """The trainee has done a step: log, measure, capture and save what this step asks for.

        Raises:
            TrainingError: The loss is not finite; seen when it is logged.
            SsmlensError: The disk is full, or a capture failed.
        """
        config = self.config
        self._losses.append(loss)
        self._step = step = self.trainee.step
        last = step == config.steps
        if last or step % _LOG_EVERY == 0:
            self._log()
        if last or step % config.eval_every == 0 or step in config.capture_at:
            self._look()
        if last or step % self._checkpoint_every == 0:
            losses = self._read_losses()
            self.folder.sync()
            told = {"losses": losses, "seconds": self._seconds}
            checkpoints.save(
                self.folder.path / CHECKPOINTS,
                self.trainee,
                told,
                keep_all=self._keep_checkpoints,
            )
        if last:
            self._tell("done")

    def fail(self, error: BaseException) -> None:
        """Say in status.json why it ended."""
        told = str(error) if isinstance(error, SsmlensError) else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            told = "interrupted; `resume` goes on"
        self._tell("failed", " ".join(told.split())[:1000])

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def _tell(self, state: str, error: str = "") -> None:
        self._told = time.monotonic()
        self.folder.tell(state, self._step, self.config.steps, self._seconds, error)

    def _log(self) -> None:
        losses = self._read_losses()
        self._losses.clear()
        self._loss = sum(losses) / len(losses)
        self._measured(TRAIN, None, {"loss": self._loss})
        if time.monotonic() - self._told > _STATUS_EVERY:
            self._tell("running")
        self._report()

    def _look(self) -> None:
        """Measure accuracy, where it is time to, and capture the maps where that was asked for."""
        config, step = self.config, self._step
        if step % config.eval_every == 0 or step == config.steps:
            for length in config.lengths:
                values = self.trainee.evaluate(length)
                if length == config.lengths[0]:
                    self._char = values["char"]
                self._measured(EVAL, length, values)
            self._report()
        if step in config.capture_at:
            self._capture()

    def _capture(self) -> None:
        config, trainee = self.config, self.trainee
        folder = self.folder.path / "captures"
        ensure_folder(folder)
        exam, model = trainee.plan.exam(config.length, _PROMPTS), trainee.model.eval()
        prompts = from_task(config.task, exam, config.seed, model.tokenizer)
        made = capture(model, prompts, folder / f"step-{self._step:06}.h5", overwrite=True)
        assert made is not None
        made.close()

    def _measured(self, split: str, length: int | None, values: dict[str, float]) -> None:
        self.folder.measure(self._step, split, length, **values)
        for tracker in self._trackers:
            tracker.log(self._step, split, length, values)

    def _report(self) -> None:
        steps = self.config.steps
        self._progress(Progress(self._step, steps, self._loss, self._char, self._seconds))

    def _read_losses(self) -> list[float]:
        """Those that are not logged yet, read from the device at once."""
        losses = torch.stack(self._losses).tolist() if self._losses else []
        for back, loss in enumerate(reversed(losses)):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} at step {self._step - back} (learning rate "
                    f"{self.config.learning_rate:g}); try a lower one, or `clip` 1"
                )
        return losses
