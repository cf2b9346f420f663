"""Selections of tokens, heads, states or taps, written as numbers and ranges."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ssmlens.errors import UsageError

Chosen = Any
"""What `Selection.of` takes: 3, "3", "0:64", "0:64,70", a slice, a range, numbers, a boolean tensor; None: all."""

_RANGE = re.compile(r"(-?\d+)?:(-?\d+)?")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Numbers and ranges on an axis. Negative ones count from its end, as in Python.

    Attributes:
        parts: Numbers, and ranges (first, end) with None for an open end.
    """

    parts: tuple[int | tuple[int | None, int | None], ...]

    @classmethod
    def of(cls, chosen: Chosen) -> "Selection | None":
        """Read a selection; None selects all, and stays None.

        Raises:
            UsageError: It is of no form that `Chosen` lists, or selects nothing at any length: [], "5:3".
        """
        if chosen is None or isinstance(chosen, Selection):
            return chosen
        selection = cls._read(chosen)
        return _refuse(chosen) if all(map(_is_empty, selection.parts)) else selection

    @classmethod
    def _read(cls, chosen: Any) -> "Selection":
        if isinstance(chosen, str):
            return cls(tuple(_part(word) for word in chosen.split(",")))
        if isinstance(chosen, slice):
            if chosen.step not in (None, 1):
                return _refuse(chosen)
            return cls(((chosen.start, chosen.stop),))
        if isinstance(chosen, Tensor) and chosen.dtype == torch.bool:
            return cls(tuple(chosen.nonzero().flatten().tolist()))
        numbers = chosen if isinstance(chosen, Iterable) else [chosen]
        try:
            return cls(tuple(_integer(number) for number in numbers))
        except (TypeError, ValueError):
            return _refuse(chosen)

    def mask(self, length: int, name: str) -> Bool[Tensor, " length"]:
        """True at the selected places of an axis of this length.

        Raises:
            UsageError: A number is not on the axis. The message calls it `name`.
        """
        mask = torch.zeros(length, dtype=torch.bool)
        for part in self.parts:
            if isinstance(part, int):
                if not -length <= part < length:
                    raise UsageError(f"{name} {part} is out of range: there are {length}")
                mask[part] = True
            else:
                first, end = part
                for edge in (first, end):
                    if edge is not None and not -length <= edge <= length:
                        raise UsageError(f"{name} {self} is out of range: there are {length}")
                mask[first:end] = True
        return mask

    def clipped(self, length: int, end: int) -> Bool[Tensor, " length"]:
        """True at the selected places of an axis of this length; ignores places past it.

        Numbers below 0 count back from `end`.
        """
        mask = torch.zeros(length, dtype=torch.bool)
        for part in self.parts:
            if isinstance(part, int):
                at = part + end if part < 0 else part
                if 0 <= at < length:
                    mask[at] = True
            else:
                first, last = (
                    None if edge is None else max(0, edge + end) if edge < 0 else edge
                    for edge in part
                )
                mask[first:last] = True
        return mask

    @property
    def counts_back(self) -> bool:
        """Whether any of its numbers counts from the end."""
        edges = [
            edge for part in self.parts for edge in (part if isinstance(part, tuple) else [part])
        ]
        return any(edge is not None and edge < 0 for edge in edges)

    def __str__(self) -> str:
        return ",".join(
            str(part)
            if isinstance(part, int)
            else ":".join("" if edge is None else str(edge) for edge in part)
            for part in self.parts
        )


def _is_empty(part: int | tuple[int | None, int | None]) -> bool:
    """Whether this is a range that ends before it begins."""
    if isinstance(part, int):
        return False
    first, end = (0 if edge is None else edge for edge in part)
    return end <= first and (first < 0) == (end < 0) and part[1] is not None


def _part(word: str) -> int | tuple[int | None, int | None]:
    word = word.strip()
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    if matched := _RANGE.fullmatch(word):
        first, end = (None if edge is None else int(edge) for edge in matched.groups())
        return first, end
    return _refuse(word)


def _integer(number: Any) -> int:
    if int(number) != number or isinstance(number, bool):
        raise ValueError
    return int(number)


def _refuse(chosen: Any) -> Any:
    raise UsageError(f'{chosen!r} selects nothing: write 3, "0:64", "0:64,70" or [3, 5]')
