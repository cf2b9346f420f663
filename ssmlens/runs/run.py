"""Training runs on disk. A run is a folder that its trainer writes and all others only read.

    RUN/
      config.json      one object, written before the first step and never changed. These fields are read:
                         arm            how the model starts: "default", "mimetic", "transplant 3", "shuffled 3", ...
                         seed           an integer
                         learning_rate  a number
                         length         the longest length trained on
                         teacher_layer  for a transplant or its controls: the block that it comes from
                         shuffled       whether it is the shuffled control
                         control        the kind of another control: "gaussian", "memory-only", ...
                         start          names of the fields that define how the model starts: arms may differ in
                                        them; absent: `FIRST_STARTS`
                       All are optional; the trainer may add others.
      metrics.jsonl    an object a line, appended:
                         step    an integer from 0
                         split   "train", or "eval" for held-out examples
                         length  the one length measured at; null or absent over a mixture (as in training)
                         loss    mean cross entropy of the answers
                         char, string   shares in 0..1 of characters and of whole strings that are right
                         char_free, string_free   the same where the model reads its own answers
                         any other name   of a number: a measure of this name
                       each measure is a finite number, or null if it was not taken or was not finite.
      status.json      one object, replaced (written aside, then renamed) as the run goes on:
                         state   "running", "done" or "failed"
                         step, steps   steps done, and steps in all
                         seconds       seconds so far
                         error         for a failed run: one line
      .lock            an empty file that the trainer locks (flock) while it trains: a run with the state "running"
                       whose lock is free was stopped. Without the file, status.json is trusted.
      checkpoints/     not read here.
      scores.json      for a transplant: one object, `layer` and `scores`: the teacher layer's scores by name, each a
                       finite number or null.

`metrics.jsonl` is created, empty, with `config.json`: it identifies a run folder. A resuming trainer first cuts it back
to the complete lines up to its checkpoint. A sweep is a folder of run folders. Numbers are JSON's: NaN and Infinity are
refused. A last line without a line end is still being written, and is read later.
"""

import dataclasses
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ssmlens.errors import RunFileError, UsageError
from ssmlens.files.folders import Folders, Listed
from ssmlens.files.lock import is_locked
from ssmlens.files.plain_json import count_of, number_of, read_object, text_of
from ssmlens.runs.metrics import Metrics, no_metrics, read_metrics

CONFIG, METRICS, STATUS, SCORES = "config.json", "metrics.jsonl", "status.json", "scores.json"
CHECKPOINTS, LOCK = "checkpoints", ".lock"
MOST_RUNS = 4096
"""Most run folders that are listed below one folder."""

FIRST_STARTS = frozenset(
    {
        *("arm", "init", "init_layers", "components", "c", "a_rule", "w_delta_scale", "bc_mix"),
        *("bc_rescale", "conv_scope", "keep_conv_bias", "std", "teacher", "teacher_layer", "scope"),
        *("shuffled", "init_from", "embeddings"),
    }
)
"""Fields of config.json that define how a model starts, for folders without the list `start`."""

State = Literal["starting", "running", "stopped", "done", "failed"]
_STATES: dict[str, State] = {"running": "running", "done": "done", "failed": "failed"}
_GOING = ("starting", "running")
_MOST_JSON = 1 << 20
_LONGEST_ARM = 64
_LONGEST_ERROR = 4096
_MOST_SCORES = 256
_Signature = tuple[tuple[int, int, int] | None, ...]


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    Attributes:
        state: "starting" until there is a status.json; "stopped" if the run has not ended but no process trains it any
            more, as after a kill or a power cut.
        step: The last step done.
        steps: Steps in all; None if unknown.
        seconds: Seconds so far; NaN if unknown.
        error: Why it failed; "" otherwise.
    """

    state: State = "starting"
    step: int = 0
    steps: int | None = None
    seconds: float = math.nan
    error: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A training run, as read from its folder at one time. Get one from `open_run`.

    Attributes:
        path: The folder.
        config: All of config.json.
        status: Its status.
        metrics: Its measurements so far.
        teacher_scores: Scores of the layer that a transplant comes from; NaN for null. Empty for other runs.
        written: Time of the last change of its files: seconds since 1970.
    """

    path: Path
    config: Mapping[str, Any]
    status: RunStatus
    metrics: Metrics
    teacher_scores: Mapping[str, float]
    written: float
    _signature: _Signature

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def arm(self) -> str:
        """Name of its arm; "run" if the config has none."""
        return text_of(dict(self.config), "arm", _LONGEST_ARM) or "run"

    @property
    def seed(self) -> int | None:
        """The seed of its weights and data."""
        return count_of(dict(self.config), "seed")

    @property
    def learning_rate(self) -> float:
        """The learning rate; NaN if the config has none."""
        return number_of(dict(self.config), "learning_rate")

    @property
    def length(self) -> int | None:
        """The longest length trained on."""
        return count_of(dict(self.config), "length")

    @property
    def teacher_layer(self) -> int | None:
        """The teacher's block that its layers, or those of its control, come from."""
        return count_of(dict(self.config), "teacher_layer")

    @property
    def shuffled(self) -> bool:
        """Whether it is the shuffled control of a transplant: the block's values without their structure."""
        return self.config.get("shuffled") is True

    @property
    def control(self) -> str:
        """Kind of the control of a transplant: "shuffled", "gaussian", ...; "" if it is not a control."""
        kind = text_of(dict(self.config), "control", _LONGEST_ARM) or ""
        return "shuffled" if self.shuffled else kind

    @property
    def setting(self) -> dict[str, Any]:
        """The config without the model's start, the seed and the learning rate: arms must share it."""
        varied = {"start", "seed", "learning_rate", *self.config.get("start", FIRST_STARTS)}
        return {name: value for name, value in self.config.items() if name not in varied}

    def reread(self) -> "Run":
        """Read the run again, only the new lines of metrics.jsonl; return the run itself if no file has changed.

        Raises:
            UsageError: Its folder is gone.
            RunFileError: A file is invalid.
        """
        if _signature(self.path) != self._signature:
            return _read(self.path, self.metrics)
        status = _alive(self.status, self.path)
        return self if status == self.status else dataclasses.replace(self, status=status)


def open_run(path: Path | str) -> Run:
    """Read a training run's folder.

    Raises:
        UsageError: There is no run in this folder.
        RunFileError: A file in it is invalid; the message names the file and says why.
    """
    return _read(Path(path), no_metrics())


def find_runs(folder: Path | str) -> list[Path]:
    """Find the run folders at or below a folder, at most three levels down, by name; links are not followed.

    Raises:
        UsageError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; give a run or a folder of runs")
    listing = Folders().walk(folder, holds_run)
    return list(islice((path for path, listed in listing if holds_run(listed)), MOST_RUNS))


def holds_run(listed: Listed) -> bool:
    """Tell whether a directory with this listing is a run's."""
    return METRICS in listed.files


def _read(path: Path, known: Metrics) -> Run:
    signature = _signature(path)  # before the files: changes during the read are then read again
    if signature[1] is None:
        raise UsageError(f"there is no run in {path}; a run folder holds {METRICS}")
    try:
        metrics = read_metrics(path / METRICS, known)
    except FileNotFoundError as error:
        raise UsageError(f"the run in {path} is gone") from error
    run = Run(
        path=path,
        config=_object(path / CONFIG),
        status=_alive(_status(path / STATUS), path),
        metrics=metrics,
        teacher_scores=_scores(path / SCORES),
        written=max((s[0] for s in signature if s), default=0) / 1e9,
        _signature=signature,
    )
    try:  # raise for bad fields now, not when they are used
        _ = run.arm, run.seed, run.learning_rate, run.length, run.teacher_layer, run.control
        _require_names(run.config, "start")
    except ValueError as error:
        raise RunFileError(f"{path / CONFIG}: {error}") from error
    return run


def _require_names(config: Mapping[str, Any], field: str) -> None:
    names = config.get(field, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{field} is not a list of names")


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, _MOST_JSON)
    except FileNotFoundError:
        return {}


def _status(path: Path) -> RunStatus:
    fields = _object(path)
    if not fields:
        return RunStatus()
    try:
        state = _STATES.get(text_of(fields, "state", _LONGEST_ARM) or "")
        if state is None:
            raise ValueError(f"state is none of {', '.join(_STATES)}")
        return RunStatus(
            state=state,
            step=count_of(fields, "step") or 0,
            steps=count_of(fields, "steps"),
            seconds=number_of(fields, "seconds"),
            error=text_of(fields, "error", _LONGEST_ERROR) or "",
        )
    except ValueError as error:
        raise RunFileError(f"{path}: {error}") from error


def _alive(status: RunStatus, path: Path) -> RunStatus:
    """Return the status, with "stopped" for a run that has not ended but whose lock is free."""
    if status.state not in _GOING or is_locked(path / LOCK) is not False:
        return status
    return dataclasses.replace(status, state="stopped")


def _scores(path: Path) -> dict[str, float]:
    scores = _object(path).get("scores", {})
    try:
        if not isinstance(scores, dict) or len(scores) > _MOST_SCORES:
            raise ValueError(f"scores is not an object of at most {_MOST_SCORES} numbers")
        return {name[:_LONGEST_ARM]: number_of(scores, name) for name in scores}
    except ValueError as error:
        raise RunFileError(f"{path}: {error}") from error


def _signature(path: Path) -> _Signature:
    """Return time, size and inode of each file; None if it does not exist."""
    signature = []
    for name in (CONFIG, METRICS, STATUS, SCORES):
        try:
            stat = (path / name).lstat()
            signature.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except OSError:
            signature.append(None)
    return tuple(signature)
