"""Where figures are kept, and the words for the machine they were measured on."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


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


def write(name: str, found: dict[str, object]) -> Path:
    """Keep `found` as results/`name`.json beside this file; returns the path as seen from the checkout."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n")
    return path.relative_to(CHECKOUT)
