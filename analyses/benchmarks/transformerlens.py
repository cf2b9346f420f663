"""Run comparisons with TransformerLens in a separate environment: it needs an older transformers."""

import json
import subprocess
import sys
from types import ModuleType

from analyses.benchmarks import results


def compare(module: ModuleType, title: str) -> dict[str, object] | None:
    """Run `module` in that environment, print its results with its `show` and return them. None without environment."""
    python = results.CHECKOUT / ".venv-transformerlens/bin/python"
    print(f"\n{title}")
    if not python.exists():
        print(
            "left out: make the environment with analyses/benchmarks/transformerlens_env.sh, then run again"
        )
        return None
    answer = subprocess.run(
        [python, "-m", module.__name__],
        cwd=results.CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if answer.returncode:
        sys.exit(
            f"the comparison in {python} failed (exit {answer.returncode}); its error is above"
        )
    measurements = json.loads(answer.stdout.splitlines()[-1])
    module.show(measurements)
    return measurements
