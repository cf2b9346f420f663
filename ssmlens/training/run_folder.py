"""The folder of a run, as its trainer writes it; `runs.run` says what is in it and reads it."""

import fcntl
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmlens.errors import UsageError
from ssmlens.runs.run import CONFIG, METRICS, SCORES, STATUS
from ssmlens.store import disk
from ssmlens.training.config import START, STARTS, TrainConfig

_LOCK = ".lock"


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
        with disk.told_in_one_line(path, 0):
            path.mkdir(parents=True, exist_ok=True)
            # The lock goes with the process, however that ends.
            self._lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open(config)
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, BlockingIOError):
                raise BusyError(f"another process is training in {path}") from None
            raise

    def _open(self, config: TrainConfig) -> None:
        if (self.path / CONFIG).exists():
            _require_same(self.path, config, TrainConfig.read(self.path / CONFIG))
        else:
            told = config.to_dict() | {START: sorted(STARTS)}
            disk.write_file(self.path / CONFIG, _json(told, indent=1))
        self._metrics = (self.path / METRICS).open("ab", buffering=0)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the folder."""
        self._metrics.close()
        os.close(self._lock)

    def measure(self, step: int, split: str, length: int | None, **values: float) -> None:
        """Append a line to metrics.jsonl; numbers that are not finite become null."""
        line = {"step": step, "split": split, "length": length, **values}
        with disk.told_in_one_line(self.path / METRICS, 0):
            self._metrics.write(_json(line) + b"\n")

    def tell(self, state: str, step: int, steps: int, seconds: float, error: str = "") -> None:
        """Replace status.json."""
        told = {"state": state, "step": step, "steps": steps, "seconds": round(seconds, 3)}
        disk.write_file(self.path / STATUS, _json(told | ({"error": error} if error else {})))

    def keep_scores(self, layer: int, scores: Mapping[str, float]) -> None:
        """Write scores.json: those of the teacher's layer that the model starts as."""
        disk.write_file(self.path / SCORES, _json({"layer": layer, "scores": dict(scores)}))

    def sync(self) -> None:
        """Wait until what was measured is on the disk: before the checkpoint that takes it as done."""
        os.fsync(self._metrics.fileno())

    def cut_back(self, step: int) -> None:
        """Drop the lines of metrics.jsonl beyond this step, and one that was not written to its end."""
        text = (self.path / METRICS).read_bytes()
        lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        kept = b"".join(line for line in lines if json.loads(line)["step"] <= step)
        if kept != text:
            self._metrics.close()
            disk.write_file(self.path / METRICS, kept)
            self._metrics = (self.path / METRICS).open("ab", buffering=0)


class BusyError(UsageError):
    """Another process is training in this folder."""


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
    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: plain(inner) for name, inner in item.items()}
        return None if isinstance(item, float) and not math.isfinite(item) else item

    return json.dumps(plain(value), indent=indent, allow_nan=False).encode()
