"""Close unpatched layers on a GPU: shipped models, every mixer and option, transformers' families, and behaviour.

Run on a machine with a CUDA GPU, mamba_ssm and causal_conv1d: `python -m analyses.fused_kernels.run`. It writes
`results/<gpu>.json` and prints a line a row. What came out is in README.md beside this file.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from analyses.fused_kernels import behaviour, families, mixers, shipped

HERE = Path(__file__).parent


def main() -> None:
    """Run everything, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Iterable[dict]] = {
            "shipped": shipped.rows(Path(folder)),
            "mixers": mixers.rows(),
            "families": families.rows(),
            "behaviour": behaviour.rows(),
        }
        found: dict[str, object] = {"gpu": torch.cuda.get_device_name(), **_versions()}
        for part, rows in parts.items():
            kept = found[part] = []
            for row in rows:
                kept.append(row)
                print(part, json.dumps(row), flush=True)
    gpu = torch.cuda.get_device_name().lower().replace(" ", "-")
    (out / f"{gpu}.json").write_text(json.dumps(found, indent=1) + "\n")


def _versions() -> dict[str, str]:
    import importlib.metadata

    packages = ("torch", "mamba_ssm", "causal_conv1d", "transformers", "triton")
    return {name: importlib.metadata.version(name) for name in packages}


if __name__ == "__main__":
    main()
