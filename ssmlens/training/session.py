"""One session of a run, from its last checkpoint to its end: it logs, measures, captures and saves after each step."""

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

# Training loss is the mean over this many steps; it is checked for finiteness as often.
_LOG_EVERY = 10
# Seconds between updates of status.json: each waits for the disk.
_STATUS_EVERY = 1.0
# Number of prompts of a capture.
_PROMPTS = 4


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        loss: Mean training loss of the last steps; NaN before the first.
        char: Last measured share of characters right at the training length; NaN before the first.
        seconds: Seconds so far, including earlier sessions.
    """

    step: int
    steps: int
    loss: float
    char: float
    seconds: float


class TrainingError(SsmlensError):
    """Training cannot continue: the loss is not finite."""


class Session:
    """A run in training: its trainee and its folder. Call `begin`, then `finish_step` with the loss of each step.

    Args:
        trainee: The model, with its initial weights.
        folder: The run's folder.
        trackers: Trackers that log everything that metrics.jsonl does.
        progress: Called every few steps.
        checkpoint_every: Steps between checkpoints; there is always one at the end.
        keep_checkpoints: Keep every checkpoint, not only the last.
    """

    def __init__(
        self,
        trainee: Trainee,
        folder: RunFolder,
        *,
        trackers: Sequence[Tracker] = (),
        progress: Callable[[Progress], None] = lambda now: None,
        checkpoint_every: int = 500,
        keep_checkpoints: bool = False,
    ):
        self.config, self.trainee, self.folder = trainee.config, trainee, folder
        self._trackers, self._progress = trackers, progress
        self._checkpoint_every, self._keep_checkpoints = checkpoint_every, keep_checkpoints
        self._step, self._loss, self._char = 0, float("nan"), float("nan")
        self._earlier_seconds, self._start, self._status_time = 0.0, time.monotonic(), 0.0
        self._losses: list[Tensor] = []  # losses not logged yet

    def begin(self) -> None:
        """Load the last checkpoint, or measure the initial model.

        Raises:
            SsmlensError: The disk is full, or a capture failed.
        """
        trainee, folder = self.trainee, self.folder
        saved = checkpoints.load(folder.path / "checkpoints", trainee)
        folder.cut_back(trainee.step if saved else -1)
        self._step = trainee.step
        if saved:
            self._earlier_seconds = saved["seconds"]
            self._losses = list(torch.tensor(saved["losses"], device=trainee.device))
        # Done: the run was stopped right after its last checkpoint.
        self._write_status("done" if self.is_done else "running")
        if self._step == 0:
            self._measure_or_capture()

    @property
    def is_done(self) -> bool:
        """Whether the last step is done, including its measurements and checkpoint."""
        return self._step == self.config.steps

    def finish_step(self, loss: Float[Tensor, ""]) -> None:
        """Log, measure, capture and save after a step of the trainee, as far as they are due.

        Raises:
            TrainingError: The loss is not finite; detected when it is logged.
            SsmlensError: The disk is full, or a capture failed.
        """
        config = self.config
        self._losses.append(loss)
        self._step = step = self.trainee.step
        last = step == config.steps
        if last or step % _LOG_EVERY == 0:
            self._log()
        if last or step % config.eval_every == 0 or step in config.capture_at:
            self._measure_or_capture()
        if last or step % self._checkpoint_every == 0:
            losses = self._read_losses()
            self.folder.sync()
            checkpoints.save(
                self.folder.path / CHECKPOINTS,
                self.trainee,
                {"losses": losses, "seconds": self._seconds},
                keep_all=self._keep_checkpoints,
            )
        if last:
            self._write_status("done")

    def fail(self, error: BaseException) -> None:
        """Write to status.json why the run ended."""
        known = isinstance(error, SsmlensError)
        message = str(error) if known else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            message = "interrupted; continue with `resume`"
        self._write_status("failed", " ".join(message.split())[:1000])

    @property
    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._start

    def _write_status(self, state: str, error: str = "") -> None:
        self._status_time = time.monotonic()
        steps = self.config.steps
        self.folder.write_status(state, self._step, steps, self._seconds, error)

    def _log(self) -> None:
        losses = self._read_losses()
        self._losses.clear()
        self._loss = sum(losses) / len(losses)
        self._record(TRAIN, None, {"loss": self._loss})
        if time.monotonic() - self._status_time > _STATUS_EVERY:
            self._write_status("running")
        self._report()

    def _measure_or_capture(self) -> None:
        """Measure accuracy and capture the layers, if due at this step."""
        config, step = self.config, self._step
        if step % config.eval_every == 0 or step == config.steps:
            for length in config.lengths:
                values = self.trainee.evaluate(length)
                if length == config.lengths[0]:
                    self._char = values["char"]
                self._record(EVAL, length, values)
            self._report()
        if step in config.capture_at:
            self._capture()

    def _capture(self) -> None:
        config, trainee = self.config, self.trainee
        folder = self.folder.path / "captures"
        ensure_folder(folder)
        exam, model = trainee.plan.exam(config.length, _PROMPTS), trainee.model.eval()
        prompts = from_task(config.task, exam, config.seed, model.tokenizer)
        captured = capture(model, prompts, folder / f"step-{self._step:06}.h5", overwrite=True)
        assert captured is not None
        captured.close()

    def _record(self, split: str, length: int | None, values: dict[str, float]) -> None:
        self.folder.measure(self._step, split, length, **values)
        for tracker in self._trackers:
            tracker.log(self._step, split, length, values)

    def _report(self) -> None:
        steps = self.config.steps
        self._progress(Progress(self._step, steps, self._loss, self._char, self._seconds))

    def _read_losses(self) -> list[float]:
        """Read the losses that are not logged yet from the device, all at once."""
        losses = torch.stack(self._losses).tolist() if self._losses else []
        for back, loss in enumerate(reversed(losses)):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} at step {self._step - back} (learning rate "
                    f"{self.config.learning_rate:g}); try a lower one, or `clip` 1"
                )
        return losses
