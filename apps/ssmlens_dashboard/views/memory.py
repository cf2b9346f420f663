"""The memory that this process may use: the machine's, or less under a control group (cgroup)."""

import os
from pathlib import Path

_PROC = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_LONGEST = 1 << 16


def memory(proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """Return the bytes of memory that this process may use, shared with its control group.

    Args:
        proc: File with one line per group of this process: `number:controllers:path`.
        groups: Folder of the groups, cgroup version 1 or 2. In a container its root may be the container's own group.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_limits(proc, groups)])


def _limits(proc: Path, groups: Path) -> list[int]:
    limits = []
    for line in _text(proc).splitlines():
        _, _, fields = line.partition(":")
        controllers, _, place = fields.partition(":")
        if controllers == "":
            limits += _upwards(groups, place, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _upwards(groups / "memory", place, "memory.limit_in_bytes")
    return limits


def _upwards(root: Path, place: str, name: str) -> list[int]:
    """Read the limits of a group and of all groups above it."""
    parts = [part for part in place.split("/") if part not in ("", "..")]
    texts = [_text(root.joinpath(*parts[:end], name)).strip() for end in range(len(parts) + 1)]
    return [int(text) for text in texts if text.isdecimal()]  # "max" means no limit


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_LONGEST).decode("ascii", "replace")
    except OSError:
        return ""
