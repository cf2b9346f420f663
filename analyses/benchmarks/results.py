"""Store results with a description of the machine."""

import contextlib
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
_COMPUTING = ("torch", "transformers", "triton", "mamba_ssm", "causal_conv1d", "fla-core")


def machine() -> dict[str, str]:
    """Describe the machine for comparison: processor, memory, versions. No names of machines or users."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = (line.partition(":") for line in information.read_text().splitlines())
        model = next(
            (value.strip() for key, _, value in lines if key.startswith("model name")), model
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{os.cpu_count()} cores of {model}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
    }


def gpu_machine() -> dict[str, str]:
    """Describe the machine as `machine` does, with the GPU, the date and the versions of GPU packages."""
    import torch

    return {
        **machine(),
        "gpu": torch.cuda.get_device_name(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        **versions(),
    }


def versions(*extra: str) -> dict[str, str]:
    """Return the version of every package that computes, and of `extra`; without those that are not installed."""
    found = {}
    for name in (*_COMPUTING, *extra):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def keep_row(name: str, row: dict[str, Any], key: Sequence[str]) -> Path:
    """Write a row into results/`name`.json in place of the one that has the same values under `key`.

    Parts of a benchmark may so be run separately. Each row says which machine measured it.
    """
    path = Path(__file__).parent / "results" / f"{name}.json"
    stored = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = {json.dumps([each[part] for part in key]): each for each in (*stored, row)}
    return write(name, {"rows": list(rows.values())})


def write(name: str, values: dict[str, object]) -> Path:
    """Write `values` to results/`name`.json beside this file; return the path from the checkout."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
    return path.relative_to(CHECKOUT)
