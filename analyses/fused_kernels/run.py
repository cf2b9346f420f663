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

from analyses.benchmarks.results import versions
from analyses.fused_kernels import behaviour, families, mixers, shipped

HERE = Path(__file__).parent
PARTS = ("shipped", "families", "behaviour", "mixers")


def main() -> None:
    """Run everything, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{torch.cuda.get_device_name().lower().replace(' ', '-')}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        rows: dict[str, Iterable[dict]] = {
            "shipped": shipped.rows(Path(folder)),
            "families": families.rows(),
            "behaviour": behaviour.rows(),
            "mixers": mixers.rows(),
        }
        for part in arguments.parts:
            kept = found[part] = []
            for row in rows[part]:
                kept.append(row)
                print(part, json.dumps(row), flush=True)
                path.write_text(json.dumps({**found, "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
