"""`python -m analyses.benchmarks.turns OTHER_CHECKOUT`: is this checkout slower than another?

Each checkout runs in its own process. For each timed call they take turns, so that other load on the machine affects
both. It prints the median over turns of (this checkout's time / the other's), and a 95 % bootstrap interval.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

from analyses.benchmarks import results

WORKER = Path(__file__).with_name("turns_worker.py")


class Worker:
    """A process that times calls with one checkout's code."""

    def __init__(self, checkout: Path, threads: int):
        packages = os.pathsep.join([str(checkout), str(checkout / "apps")])
        environment = os.environ | {"PYTHONPATH": packages, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.things: list[str] = self._answer()

    def seconds(self, call: str) -> float:
        """Time one call."""
        assert self._process.stdin is not None
        self._process.stdin.write(call + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate("")

    def _answer(self):
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def interval(ratios: list[float], draws: int = 10_000) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the median."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def main() -> None:
    """Time all calls in turns, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "other", type=Path, help="another checkout of ssmlens, such as a git worktree"
    )
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--only", default="", help="only things whose name contains this")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", default="turns", help="results/NAME.json")
    arguments = parser.parse_args()
    here, there = (
        Worker(path, arguments.threads) for path in (results.CHECKOUT, arguments.other.resolve())
    )
    rows = []
    for thing in [name for name in here.things if arguments.only in name]:
        pairs = [(here.seconds(thing), there.seconds(thing)) for _ in range(arguments.turns + 1)][
            1:
        ]
        ratios = [mine / other for mine, other in pairs]
        low, high = interval(ratios)
        median = statistics.median(ratios)
        seconds = statistics.median(mine for mine, _ in pairs)
        rows.append({"thing": thing, "seconds": seconds, "ratio": median, "interval": [low, high]})
        print(f"{thing:44}{seconds:8.3f} s   {median:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    for worker in (here, there):
        worker.close()
    found = {"machine": results.machine(), "turns": arguments.turns, "threads": arguments.threads}
    results.write(arguments.out, {**found, "things": rows})


if __name__ == "__main__":
    main()
