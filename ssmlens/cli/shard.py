"""The option --shard i/N: one part of the work, for N machines that share a folder."""

import re

from ssmlens.errors import UsageError


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Parse i/N into (i, N); None stays None. Raises UsageError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise UsageError(f"--shard is i/N, such as 1/4, not {text!r}")
    return int(match[1]), int(match[2])
