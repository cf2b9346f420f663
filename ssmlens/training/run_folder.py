"""The folder of a run, as its trainer writes it; `runs.run` says what is in it and reads it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssmlens.errors import RunFileError, UsageError
from ssmlens.files import place
from ssmlens.files.appended import AppendedFile
from ssmlens.files.disk import told_in_one_line
from ssmlens.files.lock import Lock
from ssmlens.files.new import write_file
from ssmlens.files.plain_json import count_of, loads, read_bytes
from ssmlens.files.strict_json import without_nan
from ssmlens.runs.metrics import MOST_BYTES
from ssmlens.runs.run import CHECKPOINTS, CONFIG, LOCK, METRICS, SCORES, STATUS
from ssmlens.training.config import START, STARTS, TrainConfig

# Seconds to wait for the lock: who reads a run holds it for an instant, to see whether anybody trains there.
_WAIT = 0.1


class RunFolder:
    """A run's folder, held by this process alone until `close`; use it in a `with` block.

    Args:
        path: The folder; it is made where there is none.
        config: What is trained. A run that is there already must have the same.

    Raises:
        BusyError: Another process holds it.
        UsageError: It holds a run with another config.
        SsmlensError: It cannot be written.
    """

    def __init__(self, path: Path, config: TrainConfig):
        self.path = path
        with told_in_one_line(path):
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
            told = config.to_dict() | {START: sorted(STARTS)}
            write_file(self.path / CONFIG, _json(told, indent=1))
        self._metrics = AppendedFile(self.path / METRICS)

    def _clean(self) -> None:
        """Remove what a process that ended in the middle of writing has left."""
        for folder in (self.path, self.path / CHECKPOINTS):
            if place.is_folder(folder):
                for path in folder.glob(f"*{place.PARTIAL}"):
                    place.remove(path)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the folder."""
        self._metrics.close()
        self._lock.close()

    def measure(self, step: int, split: str, length: int | None, **values: float) -> None:
        """Append a line to metrics.jsonl; numbers that are not finite become null."""
        line = {"step": step, "split": split, "length": length, **values}
        self._metrics.append(_json(line) + b"\n")

    def tell(self, state: str, step: int, steps: int, seconds: float, error: str = "") -> None:
        """Replace status.json."""
        told = {"state": state, "step": step, "steps": steps, "seconds": round(seconds, 3)}
        write_file(self.path / STATUS, _json(told | ({"error": error} if error else {})))

    def keep_scores(self, layer: int, scores: Mapping[str, float]) -> None:
        """Write scores.json: those of the teacher's layer that the model starts as."""
        write_file(self.path / SCORES, _json({"layer": layer, "scores": dict(scores)}))

    def sync(self) -> None:
        """Wait until what was measured is on the disk: before the checkpoint that takes it as done."""
        self._metrics.sync()

    def cut_back(self, step: int) -> None:
        """Drop the lines of metrics.jsonl beyond this step, and one that was not written to its end."""
        text = read_bytes(self.path / METRICS, MOST_BYTES)
        lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        kept = b"".join(line for line in lines if self._step(line) <= step)
        if kept != text:
            self._metrics.close()
            write_file(self.path / METRICS, kept)
            self._metrics = AppendedFile(self.path / METRICS)

    def _step(self, line: bytes) -> int:
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            step = count_of(loads(line), "step")
            if step is not None:
                return step
        path = self.path / METRICS
        raise RunFileError(f"{path} cannot be gone on with: {line[:80]!r} is no line of metrics")


def _require_same(path: Path, asked: TrainConfig, there: TrainConfig) -> None:
    ours, theirs = asked.to_dict(), there.to_dict()
    for name in ours | theirs:
        default = getattr(TrainConfig, name)  # of an option that only one of them sets
        value, other = ours.get(name, default), theirs.get(name, default)
        if value != other:
            raise UsageError(
                f"{path} holds a run with {name} {other!r}, not {value!r}; give another `out`"
            )


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(without_nan(value), indent=indent, allow_nan=False).encode()
