"""Where figures are kept, and the words for the machine they were measured on."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_KERNELS = ("triton", "mamba_ssm", "causal_conv1d", "fla-core")  # packages that compute on a GPU


def machine() -> dict[str, str]:
    """What a reader needs in order to compare: processor, memory, versions. No names of machines or users."""
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
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def gpu_machine() -> dict[str, str]:
    """`machine` with the GPU, the date and the versions of what computes on it."""
    import torch

    return {
        **machine(),
        "gpu": torch.cuda.get_device_name(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        **{name: found for name in _KERNELS if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(name: str, found: dict[str, object]) -> Path:
    """Keep `found` as results/`name`.json beside this file; returns the path as seen from the checkout."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n")
    return path.relative_to(CHECKOUT)
