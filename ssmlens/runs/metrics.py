"""The measurements of a training run: `metrics.jsonl`; only new lines are read again."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ssmlens.errors import RunFileError
from ssmlens.files.plain_json import count_of, loads, number_of, read_bytes, text_of
from ssmlens.runs.measures import WORDS

TRAIN = "train"
EVAL = "eval"

MOST_BYTES = 64 << 20
"""Largest file that is read, in bytes: about a million lines."""

_LONGEST_LINE = 1 << 16
_LONGEST_NAME = 64
_MOST_SPLITS = 64
_MOST_MEASURES = 64
_NO_LENGTH = -1
_MOST_STEPS = 2**53


_FIELDS = frozenset({"step", "split", "length"})


class Column(NamedTuple):
    """The numbers of one measure; `line` is the row of `Metrics` of each, ascending."""

    line: Int[np.ndarray, " number"]
    value: Float[np.ndarray, " number"]


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics:
    """The lines of a metrics.jsonl, a row each.

    Attributes:
        step: Training step.
        split: Index into `splits`.
        length: Length that was measured at; -1 if a line names none.
        columns: The numbers of each measure by its name, including measures without a description (`measures.WORDS`).
        splits: Names of the splits.
        lines: Number of lines read, including blank ones.
        end: Number of bytes read.
        last: The last line read: it shows whether the file was cut back and has grown again.
    """

    step: Int[np.ndarray, " line"]
    split: Int[np.ndarray, " line"]
    length: Int[np.ndarray, " line"]
    columns: Mapping[str, Column]
    splits: tuple[str, ...] = ()
    lines: int = 0
    end: int = 0
    last: bytes = b""

    def __len__(self) -> int:
        return len(self.step)

    def measures(self, split: str = EVAL) -> list[str]:
        """Return the measures of a split: those with a description first, others in order of appearance."""
        rows = self._rows(split)
        present = [name for name, column in self.columns.items() if rows[column.line].any()]
        return [*(n for n in WORDS if n in present), *(n for n in present if n not in WORDS)]

    def lengths(self, split: str = EVAL) -> list[int]:
        """Return the lengths that a split was measured at."""
        return [int(n) for n in np.unique(self.length[self._rows(split)]) if n != _NO_LENGTH]

    def curve(
        self, measure: str, split: str = TRAIN, length: int | None = None
    ) -> tuple[Int[np.ndarray, " step"], Float[np.ndarray, " step"]]:
        """Return the steps, ascending, and the measure at each, NaN if a line lacks it; a step's last line counts.

        Args:
            measure: A key of `measures.WORDS`, or any other name in the file. A name that is absent gives NaN.
            split: "train" or "eval".
            length: The length measured at. None: lines without a length.
        """
        rows = self._rows(split) & (self.length == (_NO_LENGTH if length is None else length))
        every = np.full(len(self), np.nan)
        if measure in self.columns:
            every[self.columns[measure].line] = self.columns[measure].value
        steps, values = self.step[rows], every[rows]
        at, last = np.unique(steps[::-1], return_index=True)
        return at, values[::-1][last]

    def final(self, measure: str, length: int, split: str = EVAL) -> float:
        """Return the measure at the last step that was evaluated at this length; NaN if there is none."""
        values = self.curve(measure, split, length)[1]
        return float(values[-1]) if len(values) else math.nan

    def _rows(self, split: str) -> np.ndarray:
        if split not in self.splits:
            return np.zeros(len(self.step), dtype=bool)
        return self.split == self.splits.index(split)


def no_metrics() -> Metrics:
    """Return the metrics of a run that has measured nothing yet."""
    none = np.zeros(0, dtype=np.int64)
    return Metrics(none, none, none, {})


def read_metrics(path: Path, known: Metrics) -> Metrics:
    """Read the metrics of a file, of which `known` was read before; return `known` itself if the file has not grown.

    A last line without a line end is still being written and is left for the next call.

    Raises:
        FileNotFoundError: The file does not exist.
        RunFileError: A line is invalid, or the file is refused; the message says which and why.
    """
    back = known.end - len(known.last)
    read = read_bytes(path, MOST_BYTES, back)
    if not read.startswith(known.last):  # cut back, by a run that resumed from an earlier step
        known, back, read = no_metrics(), 0, read_bytes(path, MOST_BYTES)
    new = read[len(known.last) : read.rfind(b"\n") + 1]
    return _extended(known, new, path) if new else known


def _extended(known: Metrics, text: bytes, path: Path) -> Metrics:
    splits = {name: index for index, name in enumerate(known.splits)}
    complete: list[tuple[int, int, int]] = []
    numbers: dict[str, list[tuple[int, float]]] = {}
    lines = text.removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, start=known.lines + 1):
        if not line.strip():
            continue
        try:
            step, split, length, measured = _line(line)
        except ValueError as error:
            raise RunFileError(f"{path}: line {number}: {error}") from error
        for name, value in measured.items():
            numbers.setdefault(name, []).append((len(known) + len(complete), value))
        complete.append((step, splits.setdefault(split, len(splits)), length))
    if len(splits) > _MOST_SPLITS:
        raise RunFileError(f"{path} names more than {_MOST_SPLITS} splits")
    if len(known.columns.keys() | numbers.keys()) > _MOST_MEASURES:
        raise RunFileError(f"{path} names more than {_MOST_MEASURES} measures")
    rows = np.array(complete, dtype=np.int64).reshape(-1, 3)
    return Metrics(
        step=np.concatenate([known.step, rows[:, 0]]),
        split=np.concatenate([known.split, rows[:, 1]]),
        length=np.concatenate([known.length, rows[:, 2]]),
        columns=_joined(known.columns, numbers),
        splits=tuple(splits),
        lines=known.lines + len(lines),
        end=known.end + len(text),
        last=lines[-1] + b"\n",
    )


def _joined(
    columns: Mapping[str, Column], numbers: Mapping[str, list[tuple[int, float]]]
) -> dict[str, Column]:
    joined = dict(columns)
    for name, pairs in numbers.items():
        line = np.array([row for row, _ in pairs], dtype=np.int64)
        value = np.array([number for _, number in pairs], dtype=float)
        if name in joined:
            line = np.concatenate([joined[name].line, line])
            value = np.concatenate([joined[name].value, value])
        joined[name] = Column(line, value)
    return joined


def _line(line: bytes) -> tuple[int, str, int, dict[str, float]]:
    """Parse a line into step, split, length and measures. Raises ValueError if it is invalid."""
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"it is longer than {_LONGEST_LINE} bytes")
    fields = loads(line)
    if not isinstance(fields, dict):
        raise ValueError("it is no object")
    step, split = count_of(fields, "step"), text_of(fields, "split", _LONGEST_NAME)
    if step is None or step > _MOST_STEPS or split is None:
        raise ValueError("it lacks a step or a split")
    length = count_of(fields, "length")
    return step, split, _NO_LENGTH if length is None else length, _measured(fields)


def _measured(fields: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line by name. Measures with a description must be a number or null."""
    for name in WORDS:
        number_of(fields, name)
    names = [n for n, v in fields.items() if type(v) in (int, float) and n not in _FIELDS]
    for name in names:
        if not 0 < len(name) <= _LONGEST_NAME:
            raise ValueError(
                f"the name of a measure is not a text of 1 to {_LONGEST_NAME} characters"
            )
    return {name: float(fields[name]) for name in names}
