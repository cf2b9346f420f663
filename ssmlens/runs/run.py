"""Training runs on disk. A run is a folder that its trainer writes and everybody else only reads.

    RUN/
      config.json      one object, written before the first step and never changed. Read of it are
                         arm            how the model starts: "default", "mimetic", "transplant 3", "shuffled 3", ...
                         seed           an integer
                         learning_rate  a number
                         length         the longest length trained on
                         teacher_layer  of a transplant, and of its shuffled control: the block it comes from
                         shuffled       whether it is such a control
                         control        what another control of the transplant is: "gaussian", "memory-only", ...
                         start          names of the fields here that say how the model starts, in which arms may
                                        differ; absent: `FIRST_STARTS`
                       all of them optional, and whatever else the trainer wants to keep.
      metrics.jsonl    an object a line, appended:
                         step    an integer from 0
                         split   "train", or "eval" for held-out examples
                         length  the one length measured at; null or absent over a mixture (as in training)
                         loss    mean cross entropy of the answers
                         char, string   shares in 0..1 of characters and of whole strings that are right
                         char_free, string_free   the same where the model reads its own answers
                         any other name   of a number: a measure that is kept under this name
                       each measure a finite number, or null where it was not taken or was not finite.
      status.json      one object, replaced (written aside, then renamed) as the run goes on:
                         state   "running", "done" or "failed"
                         step, steps   where it is, and where it ends
                         seconds       spent so far
                         error         of a failed run: one line
      .lock            an empty file that the trainer keeps locked (flock) while it trains: a run that says "running"
                       while nobody holds its lock was stopped. Absent: what status.json says is believed.
      checkpoints/     not read here.
      scores.json      of a transplant: one object, `layer` and `scores`: the teacher layer's scores by name, each a
                       finite number or null.

`metrics.jsonl` is made, empty, with `config.json`: it is what a run folder is known by. A trainer that resumes first
cuts it back to the whole lines up to its checkpoint. A sweep is a folder of run folders. Numbers are JSON's: NaN and
Infinity are refused. A last line without its line end is still being written, and waits.
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
"""Run folders that are listed below one folder."""

FIRST_STARTS = frozenset(
    {
        *("arm", "init", "init_layers", "components", "c", "a_rule", "w_delta_scale", "bc_mix"),
        *("bc_rescale", "conv_scope", "keep_conv_bias", "std", "teacher", "teacher_layer", "scope"),
        *("shuffled", "init_from", "embeddings"),
    }
)
"""Fields of config.json that say how a model starts, in folders that do not say which do."""

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
    """How far a run is.

    Attributes:
        state: "starting" until there is a status.json; "stopped" where it does not say that the run has ended, and
            nobody trains there any more: a kill, a power cut.
        step: The last step done.
        steps: Steps in all; None where it is not told.
        seconds: Spent so far; NaN where it is not told.
        error: Why it failed; "" otherwise.
    """

    state: State = "starting"
    step: int = 0
    steps: int | None = None
    seconds: float = math.nan
    error: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A training run as its folder stood when it was read. Get one from `open_run`.

    Attributes:
        path: The folder.
        config: All of config.json.
        status: How far it is.
        metrics: What was measured so far.
        teacher_scores: Scores of the layer that a transplant comes from; NaN where there is none. Empty for others.
        written: When one of its files was last written: seconds since 1970.
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
        """How its model starts; "run" where the config does not say."""
        return text_of(dict(self.config), "arm", _LONGEST_ARM) or "run"

    @property
    def seed(self) -> int | None:
        """The seed of its weights and data."""
        return count_of(dict(self.config), "seed")

    @property
    def learning_rate(self) -> float:
        """The learning rate; NaN where the config does not say."""
        return number_of(dict(self.config), "learning_rate")

    @property
    def length(self) -> int | None:
        """The longest length trained on."""
        return count_of(dict(self.config), "length")

    @property
    def teacher_layer(self) -> int | None:
        """The teacher's block that its layers start as, or as the shuffled values of."""
        return count_of(dict(self.config), "teacher_layer")

    @property
    def shuffled(self) -> bool:
        """Whether it is a transplant's control: that block's values, their structure destroyed."""
        return self.config.get("shuffled") is True

    @property
    def control(self) -> str:
        """Which control of a transplant it is: "shuffled", "gaussian", ...; "" where it is none."""
        own = text_of(dict(self.config), "control", _LONGEST_ARM) or ""
        return "shuffled" if self.shuffled else own

    @property
    def setting(self) -> dict[str, Any]:
        """Its config but for how the model starts, its seed and its learning rate: what arms must have in common."""
        own = {"start", "seed", "learning_rate", *self.config.get("start", FIRST_STARTS)}
        return {name: value for name, value in self.config.items() if name not in own}

    def reread(self) -> "Run":
        """The run as it is now: of metrics.jsonl only what grew is read. Itself where no file has changed.

        Raises:
            UsageError: Its folder is gone.
            RunFileError: A file is not what it must be.
        """
        if _signature(self.path) != self._signature:
            return _read(self.path, self.metrics)
        status = _alive(self.status, self.path)
        return self if status == self.status else dataclasses.replace(self, status=status)


def open_run(path: Path | str) -> Run:
    """Read a training run's folder.

    Raises:
        UsageError: There is no run in this folder.
        RunFileError: A file in it is not what it must be; the message names the file and says why.
    """
    return _read(Path(path), no_metrics())


def find_runs(folder: Path | str) -> list[Path]:
    """The run folders at or below a folder, at most three levels down, by name; no link is followed (`files.folders`).

    Raises:
        UsageError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; give a run or a folder of runs")
    listing = Folders().walk(folder, holds_run)
    return list(islice((path for path, listed in listing if holds_run(listed)), MOST_RUNS))


def holds_run(listed: Listed) -> bool:
    """Whether a directory that holds this is a run's."""
    return METRICS in listed.files


def _read(path: Path, known: Metrics) -> Run:
    signature = _signature(path)  # before the files: what changes while they are read is read again
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
    try:  # so that nobody who asks later meets a bad field
        _ = run.arm, run.seed, run.learning_rate, run.length, run.teacher_layer, run.control
        _require_names(run.config, "start")
    except ValueError as error:
        raise RunFileError(f"{path / CONFIG}: {error}") from error
    return run


def _require_names(config: Mapping[str, Any], field: str) -> None:
    names = config.get(field, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{field} is no list of names")


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, _MOST_JSON)
    except FileNotFoundError:
        return {}


def _status(path: Path) -> RunStatus:
    held = _object(path)
    if not held:
        return RunStatus()
    try:
        state = _STATES.get(text_of(held, "state", _LONGEST_ARM) or "")
        if state is None:
            raise ValueError(f"state is none of {', '.join(_STATES)}")
        return RunStatus(
            state=state,
            step=count_of(held, "step") or 0,
            steps=count_of(held, "steps"),
            seconds=number_of(held, "seconds"),
            error=text_of(held, "error", _LONGEST_ERROR) or "",
        )
    except ValueError as error:
        raise RunFileError(f"{path}: {error}") from error


def _alive(status: RunStatus, path: Path) -> RunStatus:
    """The status, "stopped" where it says that it goes on, and nobody holds the folder's lock."""
    if status.state not in _GOING or is_locked(path / LOCK) is not False:
        return status
    return dataclasses.replace(status, state="stopped")


def _scores(path: Path) -> dict[str, float]:
    scores = _object(path).get("scores", {})
    try:
        if not isinstance(scores, dict) or len(scores) > _MOST_SCORES:
            raise ValueError(f"scores is no object of at most {_MOST_SCORES} numbers")
        return {name[:_LONGEST_ARM]: number_of(scores, name) for name in scores}
    except ValueError as error:
        raise RunFileError(f"{path}: {error}") from error


def _signature(path: Path) -> _Signature:
    """Time, size and inode of each file; None where there is none."""
    signature = []
    for name in (CONFIG, METRICS, STATUS, SCORES):
        try:
            told = (path / name).lstat()
            signature.append((told.st_mtime_ns, told.st_size, told.st_ino))
        except OSError:
            signature.append(None)
    return tuple(signature)
