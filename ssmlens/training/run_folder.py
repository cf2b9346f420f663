"""The writer of a run's folder; `runs.run` documents the folder and reads it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssmlens.errors import RunFileError, UsageError
from ssmlens.files import place
from ssmlens.files.appended import AppendedFile
from ssmlens.files.disk import one_line_errors
from ssmlens.files.lock import Lock
from ssmlens.files.new import write_file
from ssmlens.files.plain_json import count_of, loads, read_bytes
from ssmlens.files.strict_json import without_nan
from ssmlens.runs.metrics import MOST_BYTES
from ssmlens.runs.run import CHECKPOINTS, CONFIG, LOCK, METRICS, SCORES, STATUS
from ssmlens.training.config import START, STARTS, TrainConfig

# Seconds to wait for the lock: a reader holds it for an instant, to find out whether a process trains there.
_WAIT = 0.1


class RunFolder:
    """A run's folder, locked by this process until `close`; use it in a `with` block.

    Args:
        path: The folder; it is created if it does not exist.
        config: The config. A run that is already in the folder must have the same one.

    Raises:
        BusyError: Another process holds the folder.
        UsageError: The folder has a run with another config.
        SsmlensError: The folder cannot be written.
    """

    def __init__(self, path: Path, config: TrainConfig):
        self.path = path
        with one_line_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(path / LOCK, path, f"another process is training in {path}", wait=_WAIT)
        try:
            self._clean()
            self._open(config)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, config: TrainConfig) -> None:
        if (self.path / CONFIG).exists():
            _require_same(self.path, config, TrainConfig.read(self.path / CONFIG))
        else:
            values = config.to_dict() | {START: sorted(STARTS)}
            write_file(self.path / CONFIG, _json(values, indent=1))
        self._metrics = AppendedFile(self.path / METRICS)

    def _clean(self) -> None:
        """Remove the partial files of a process that ended while writing."""
        for folder in (self.path, self.path / CHECKPOINTS):
            if place.is_folder(folder):
                for path in folder.glob(f"*{place.PARTIAL}"):
                    place.remove(path)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and release the lock."""
        self._metrics.close()
        self._lock.close()

    def measure(self, step: int, split: str, length: int | None, **values: float) -> None:
        """Append a line to metrics.jsonl; non-finite numbers become null."""
        line = {"step": step, "split": split, "length": length, **values}
        self._metrics.append(_json(line) + b"\n")

    def write_status(
        self, state: str, step: int, steps: int, seconds: float, error: str = ""
    ) -> None:
        """Replace status.json."""
        status = {"state": state, "step": step, "steps": steps, "seconds": round(seconds, 3)}
        write_file(self.path / STATUS, _json(status | ({"error": error} if error else {})))

    def write_scores(self, layer: int, scores: Mapping[str, float]) -> None:
        """Write scores.json: the scores of the teacher's layer that the model starts from."""
        write_file(self.path / SCORES, _json({"layer": layer, "scores": dict(scores)}))

    def sync(self) -> None:
        """Wait until all measurements are on the disk; call it before saving a checkpoint that relies on them."""
        self._metrics.sync()

    def cut_back(self, step: int) -> None:
        """Drop the lines of metrics.jsonl after this step, and an incomplete last line."""
        text = read_bytes(self.path / METRICS, MOST_BYTES)
        lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        earlier = b"".join(line for line in lines if self._step(line) <= step)
        if earlier != text:
            self._metrics.close()
            write_file(self.path / METRICS, earlier)
            self._metrics = AppendedFile(self.path / METRICS)

    def _step(self, line: bytes) -> int:
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            step = count_of(loads(line), "step")
            if step is not None:
                return step
        path = self.path / METRICS
        raise RunFileError(f"{path} cannot be resumed: {line[:80]!r} is not a line of metrics")


def _require_same(path: Path, requested: TrainConfig, stored: TrainConfig) -> None:
    ours, theirs = requested.to_dict(), stored.to_dict()
    for name in ours | theirs:
        default = getattr(TrainConfig, name)  # for an option that only one of them sets
        value, other = ours.get(name, default), theirs.get(name, default)
        if value != other:
            raise UsageError(
                f"{path} has a run with {name} {other!r}, not {value!r}; choose another `out`"
            )


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(without_nan(value), indent=indent, allow_nan=False).encode()
