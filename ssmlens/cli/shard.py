"""The option --shard i/N: a part of the work, for N machines that share a folder."""

import re

from ssmlens.errors import UsageError


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """(i, N), or None where nothing is given. Raises UsageError for anything but i/N."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise UsageError(f"--shard is i/N, such as 1/4, not {text!r}")
    return int(match[1]), int(match[2])
