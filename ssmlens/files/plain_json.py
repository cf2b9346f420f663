"""JSON written by others, read as data: of a bounded size, out of plain files, with finite numbers or null."""

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ssmlens.errors import RunFileError

_LARGEST_INTEGER = 2**63


def read_bytes(path: Path, most: int, first: int = 0) -> bytes:
    """The bytes of a plain file from `first` on.

    Args:
        path: The file. Links, pipes and devices are refused: they would show, or wait for, something else.
        most: Bytes that the whole file may have.
        first: Where to begin.

    Raises:
        FileNotFoundError: There is no such file.
        RunFileError: It is no plain file, too large, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise RunFileError(f"{path} cannot be read: {why}") from error
    with os.fdopen(handle, "rb", buffering=0) as stream:
        told = os.fstat(handle)
        if not stat.S_ISREG(told.st_mode):
            raise RunFileError(f"{path} cannot be read: it is no plain file")
        if told.st_size > most:
            raise RunFileError(f"{path} is refused: {told.st_size} bytes, more than {most}")
        stream.seek(first)
        parts, left = [], most - first
        while left > 0 and (part := stream.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def loads(text: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is no JSON, or holds a number that is not finite or an integer beyond 64 bits; the message says
            which.
    """
    try:
        return json.loads(
            text.decode(), parse_float=_finite, parse_int=_integer, parse_constant=_finite
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg})") from error


def read_object(path: Path, most: int) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        FileNotFoundError: There is no such file.
        RunFileError: It holds no object, or is refused.
    """
    try:
        value = loads(read_bytes(path, most))
    except ValueError as error:
        raise RunFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise RunFileError(f"{path} cannot be read: it holds no object")
    return value


def number_of(held: dict[str, Any], name: str) -> float:
    """A field as a number; NaN for null and where it is absent. Raises ValueError for anything else."""
    value = held.get(name)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {type(value).__name__}, not a number or null")
    return float(value)


def count_of(held: dict[str, Any], name: str) -> int | None:
    """A field as an integer of at least 0; None for null and where it is absent. Raises ValueError otherwise."""
    value = held.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is not an integer of at least 0")
    return value


def text_of(held: dict[str, Any], name: str, longest: int) -> str | None:
    """A field as text; None for null and where it is absent. Raises ValueError for anything else."""
    value = held.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f"{name} is not a text of at most {longest} characters")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is not a finite number")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= _LARGEST_INTEGER:
        raise ValueError("it holds an integer beyond 64 bits")
    return int(digits)
