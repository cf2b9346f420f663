"""What a training run measured as it went: `metrics.jsonl`, read again only where it grew."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from ssmlens.errors import RunFileError
from ssmlens.store.plain_json import count_of, loads, number_of, read_bytes, text_of

Share = Literal["char", "string", "char_free", "string_free"]
Measure = Literal["loss", Share]
SHARES: dict[Share, str] = {
    "char": "characters right",
    "string": "strings right",
    "char_free": "characters right, running freely",
    "string_free": "strings right, running freely",
}
"""Accuracies in words; a model that runs freely reads its own answers."""
MEASURES: tuple[Measure, ...] = ("loss", *SHARES)
TRAIN = "train"
EVAL = "eval"

MOST_BYTES = 64 << 20
"""Bytes of a file that is read: about a million lines."""

_LONGEST_LINE = 1 << 16
_LONGEST_NAME = 64
_MOST_SPLITS = 64
_NO_LENGTH = -1
_MOST_STEPS = 2**53


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics:
    """The lines of a metrics.jsonl, a row each.

    Attributes:
        step: Training step.
        split: Index into `splits`.
        length: Length that was measured at; -1 where a line names none.
        values: `MEASURES`; NaN where null or absent.
        splits: Names of the splits.
        lines: How many lines of the file these are, blank ones with them.
        end: Bytes that they take up in the file.
        last: The last of these lines: how a file that was cut back and has grown again is told.
    """

    step: Int[np.ndarray, " line"]
    split: Int[np.ndarray, " line"]
    length: Int[np.ndarray, " line"]
    values: Float[np.ndarray, "line measure=5"]
    splits: tuple[str, ...] = ()
    lines: int = 0
    end: int = 0
    last: bytes = b""

    def __len__(self) -> int:
        return len(self.step)

    def lengths(self, split: str = EVAL) -> list[int]:
        """The lengths that a split was measured at."""
        return [int(n) for n in np.unique(self.length[self._rows(split)]) if n != _NO_LENGTH]

    def curve(
        self, measure: Measure, split: str = TRAIN, length: int | None = None
    ) -> tuple[Int[np.ndarray, " step"], Float[np.ndarray, " step"]]:
        """Steps, ascending, and the measure at each; where a step comes twice the later line counts.

        Args:
            measure: "loss", or a share: of characters ("char"), of whole strings ("string"), of either where the model
                reads its own answers ("char_free", "string_free").
            split: "train" or "eval".
            length: The length measured at. None: lines that name none.
        """
        rows = self._rows(split) & (self.length == (_NO_LENGTH if length is None else length))
        steps, values = self.step[rows], self.values[rows, MEASURES.index(measure)]
        at, last = np.unique(steps[::-1], return_index=True)
        return at, values[::-1][last]

    def final(self, measure: Measure, length: int, split: str = EVAL) -> float:
        """The measure at the last step that it was taken; NaN where it never was."""
        values = self.curve(measure, split, length)[1]
        return float(values[-1]) if len(values) else math.nan

    def _rows(self, split: str) -> np.ndarray:
        if split not in self.splits:
            return np.zeros(len(self.step), dtype=bool)
        return self.split == self.splits.index(split)


def no_metrics() -> Metrics:
    """The metrics of a run that has measured nothing yet."""
    none = np.zeros(0, dtype=np.int64)
    return Metrics(none, none, none, np.zeros((0, len(MEASURES))))


def read_metrics(path: Path, known: Metrics) -> Metrics:
    """The metrics of a file, of which `known` was read before; `known` itself where it has not grown.

    A last line without its line end is still being written, and is left for the next time.

    Raises:
        FileNotFoundError: There is no such file.
        RunFileError: A line is not what it must be, or the file is refused; the message says which and why.
    """
    back = known.end - len(known.last)
    read = read_bytes(path, MOST_BYTES, back)
    if not read.startswith(known.last):  # cut back, by a run that resumed from an earlier step
        known, back, read = no_metrics(), 0, read_bytes(path, MOST_BYTES)
    new = read[len(known.last) : read.rfind(b"\n") + 1]
    return _extended(known, new, path) if new else known


def _extended(known: Metrics, text: bytes, path: Path) -> Metrics:
    splits = {name: index for index, name in enumerate(known.splits)}
    whole, values = [], []
    lines = text.removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, start=known.lines + 1):
        if not line.strip():
            continue
        try:
            step, split, length, measured = _line(line)
        except ValueError as error:
            raise RunFileError(f"{path}: line {number}: {error}") from error
        whole.append((step, splits.setdefault(split, len(splits)), length))
        values.append(measured)
    if len(splits) > _MOST_SPLITS:
        raise RunFileError(f"{path} names more than {_MOST_SPLITS} splits")
    rows = np.array(whole, dtype=np.int64).reshape(-1, 3)
    return Metrics(
        step=np.concatenate([known.step, rows[:, 0]]),
        split=np.concatenate([known.split, rows[:, 1]]),
        length=np.concatenate([known.length, rows[:, 2]]),
        values=np.concatenate([known.values, np.array(values).reshape(-1, len(MEASURES))]),
        splits=tuple(splits),
        lines=known.lines + len(lines),
        end=known.end + len(text),
        last=lines[-1] + b"\n",
    )


def _line(line: bytes) -> tuple[int, str, int, list[float]]:
    """Step, split, length and measures of a line. Raises ValueError where it is not what it must be."""
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"it is longer than {_LONGEST_LINE} bytes")
    held = loads(line)
    if not isinstance(held, dict):
        raise ValueError("it is no object")
    step, split = count_of(held, "step"), text_of(held, "split", _LONGEST_NAME)
    if step is None or step > _MOST_STEPS or split is None:
        raise ValueError("it lacks a step or a split")
    length = count_of(held, "length")
    measures = [number_of(held, name) for name in MEASURES]
    return step, split, _NO_LENGTH if length is None else length, measures
