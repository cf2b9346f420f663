"""Read files that others wrote, as data: plain files of a bounded size; JSON with checked numbers."""

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ssmlens.errors import RunFileError, SsmlensError
from ssmlens.files import descriptors

Refusal = type[SsmlensError]
_LARGEST_INTEGER = 2**63


def read_bytes(
    path: Path,
    most: int,
    first: int = 0,
    *,
    links: bool = False,
    refused: Refusal = RunFileError,
) -> bytes:
    """Read the bytes of a plain file from `first` on.

    Args:
        path: The file. Pipes and devices are refused: reading them could block, or never end.
        most: Largest size of the complete file in bytes.
        first: Offset of the first byte.
        links: Follow a link (the hub's cache consists of links); otherwise a link is refused.
        refused: The error to raise.

    Raises:
        FileNotFoundError: The file does not exist.
        SsmlensError: (`refused`) It is not a plain file, is too large, or cannot be read.
        OpenFilesError: No more files can be opened.
    """
    follow = 0 if links else os.O_NOFOLLOW
    try:
        handle = os.open(path, os.O_RDONLY | follow | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        descriptors.raise_if_exhausted(error)
        why = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            why = "it is a link"
        raise refused(f"{path} cannot be read: {why}") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise refused(f"{path} cannot be read: it is not a plain file")
    with os.fdopen(handle, "rb", buffering=0) as stream:
        if status.st_size > most:
            raise refused(f"{path} is refused: {status.st_size} bytes, more than {most}")
        stream.seek(first)
        parts, left = [], most - first
        while left > 0 and (part := stream.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def loads(text: bytes, *, finite: bool = True) -> Any:
    """Parse a JSON text.

    Args:
        text: UTF-8.
        finite: Refuse numbers that are not finite. Some models' time steps end at Infinity.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or contains a number that is not finite or an integer beyond
            64 bits; the message says which.
    """
    number = _finite if finite else float
    try:
        return json.loads(
            text.decode(), parse_float=number, parse_int=_integer, parse_constant=number
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg})") from error


def read_json(
    path: Path,
    most: int,
    *,
    links: bool = False,
    finite: bool = True,
    refused: Refusal = RunFileError,
) -> Any:
    """Read a JSON value from a file; see `read_bytes` and `loads`.

    Raises:
        FileNotFoundError: The file does not exist.
        SsmlensError: (`refused`) It does not contain such a value, or is refused.
    """
    text = read_bytes(path, most, links=links, refused=refused)
    try:
        return loads(text, finite=finite)
    except ValueError as error:
        raise refused(f"{path} cannot be read: {error}") from error


def read_object(
    path: Path,
    most: int,
    *,
    links: bool = False,
    finite: bool = True,
    refused: Refusal = RunFileError,
) -> dict[str, Any]:
    """Read a JSON object from a file; see `read_json`."""
    value = read_json(path, most, links=links, finite=finite, refused=refused)
    if not isinstance(value, dict):
        raise refused(f"{path} cannot be read: it is not a JSON object")
    return value


def number_of(fields: dict[str, Any], name: str) -> float:
    """Return a field as a number; NaN if it is null or absent. Raises ValueError for anything else."""
    value = fields.get(name)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {type(value).__name__}, not a number or null")
    return float(value)


def count_of(fields: dict[str, Any], name: str) -> int | None:
    """Return a field as an integer of at least 0; None if it is null or absent. Raises ValueError otherwise."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is not an integer of at least 0")
    return value


def text_of(fields: dict[str, Any], name: str, longest: int) -> str | None:
    """Return a field as text; None if it is null or absent. Raises ValueError for anything else."""
    value = fields.get(name)
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
        raise ValueError("it contains an integer beyond 64 bits")
    return int(digits)
