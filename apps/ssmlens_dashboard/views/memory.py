"""How much memory this process may use: the machine's, or less where a control group (cgroup) limits it."""

import os
from pathlib import Path

_PROC = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_LONGEST = 1 << 16


def memory(proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """Bytes of memory that this process, and those that share its control group, may use.

    Args:
        proc: File that names the groups of this process, a line each: `number:controllers:path`.
        groups: Folder of the groups, of cgroup version 1 or 2. In a container it may begin at the container's own.
    """
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *_limits(proc, groups)])


def _limits(proc: Path, groups: Path) -> list[int]:
    limits = []
    for line in _text(proc).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers == "":
            limits += _upwards(groups, place, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _upwards(groups / "memory", place, "memory.limit_in_bytes")
    return limits


def _upwards(root: Path, place: str, name: str) -> list[int]:
    """The limits of a group and of all that it lies in."""
    parts = [part for part in place.split("/") if part not in ("", "..")]
    found = [_text(root.joinpath(*parts[:end], name)).strip() for end in range(len(parts) + 1)]
    return [int(text) for text in found if text.isdecimal()]  # "max": there is none


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_LONGEST).decode("ascii", "replace")
    except OSError:
        return ""
