"""Store results with a description of the machine."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_KERNELS = ("triton", "mamba_ssm", "causal_conv1d", "fla-core")  # packages that compute on a GPU


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
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def gpu_machine() -> dict[str, str]:
    """Describe the machine as `machine` does, with the GPU, the date and the versions of GPU packages."""
    import torch

    return {
        **machine(),
        "gpu": torch.cuda.get_device_name(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        **{name: values for name in _KERNELS if (values := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(name: str, values: dict[str, object]) -> Path:
    """Write `values` to results/`name`.json beside this file; return the path from the checkout."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
    return path.relative_to(CHECKOUT)
