"""`make test-gpu`: every test that needs a GPU or runs on one, what was skipped, and how long each file took.

    python -m analyses.gpu_tests.run --workers 14

It writes results.json (date, machine, versions, outcomes, seconds a file, skips with their reasons, failures, tests
that have not ended) and exits with pytest's code. Where one test hangs, the others are in the file all the same: it is
written anew every 15 seconds.
"""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch

from analyses.benchmarks.results import CHECKOUT, gpu_machine, machine

RESULTS = Path(__file__).parent / "results.json"
LANE = "gpu or device"
_EVERY = 15.0  # seconds between two writings
_SLOWEST = 30  # tests named with their seconds
_MARKERS = re.compile(r"\bmark\.(gpu|device)\b")


def marked_files() -> list[str]:
    """The test files that use a marker of the lane; the others may import what a GPU machine lacks (dash)."""
    return [
        str(path.relative_to(CHECKOUT))
        for path in sorted((CHECKOUT / "tests").rglob("test_*.py"))
        if _MARKERS.search(path.read_text(encoding="utf-8"))
    ]


class Keeper:
    """A pytest plugin that saves the outcomes by file."""

    def __init__(self, file: Path):
        self._file, self._began, self._written = file, time.monotonic(), 0.0
        self._outcomes: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._failed: dict[str, str] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._running: dict[str, float] = {}
        self._first: float | None = None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test begins, in whichever worker."""
        self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note that a test has ended."""
        self._running.pop(nodeid, None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a phase of a test; an error in set-up or tear-down counts as a failure."""
        if self._first is None:
            self._first = time.monotonic() - self._began
        self._seconds[report.nodeid] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self._skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1
        if report.failed:
            self._failed[report.nodeid] = _reason(report)
        if time.monotonic() - self._written > _EVERY:
            self.write()

    def write(self) -> None:
        """Write results.json."""
        self._written = time.monotonic()
        running = {name: self._written - began for name, began in self._running.items()}
        seconds_by_test = {**self._seconds, **running}
        files: defaultdict[str, float] = defaultdict(float)
        for name, seconds in seconds_by_test.items():
            files[name.partition("::")[0]] += seconds
        found = {
            "machine": gpu_machine() if torch.cuda.is_available() else machine(),
            "seconds": round(time.monotonic() - self._began, 1),
            "seconds_to_first_test": round(self._first or 0.0, 1),
            "outcomes": dict(sorted(self._outcomes.items())),
            "failed": self._failed,
            "not_ended": _longest_first(running),
            "skipped": dict(self._skipped.most_common()),
            "seconds_by_file": _longest_first(files),
            "slowest_tests": dict([*_longest_first(seconds_by_test).items()][:_SLOWEST]),
        }
        # Not by `ssmlens.files`: pytest must import ssmlens, so that its types are checked.
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        new.replace(self._file)


def _longest_first(seconds: dict[str, float]) -> dict[str, float]:
    pairs = sorted(seconds.items(), key=lambda pair: -pair[1])
    return {name: round(value, 1) for name, value in pairs}


def _reason(report: pytest.TestReport) -> str:
    """The first lines of what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = report.longreprtext if crash is None else crash.message
    return " ".join(text.split())[:300]


def main() -> int:
    """Run the lane."""
    parser = argparse.ArgumentParser(description="The tests that need a GPU, or run on one.")
    parser.add_argument("--workers", type=int, default=1, help="processes, all on the one GPU")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "tests",
        nargs="*",
        help="files or folders; without any, the files that use the lane's markers",
    )
    arguments = parser.parse_args()
    os.chdir(CHECKOUT)
    keeper = Keeper(arguments.results)
    # One worker tunes a Triton kernel, and the others read its choice from Triton's cache.
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")
    # Each worker takes tests that are next to each other, so that a family's model is built once or twice.
    several = ["-n", str(arguments.workers), "--dist", "worksteal"]
    code = pytest.main(
        [
            "-m",
            LANE,
            "-p",
            "no:cacheprovider",
            "-p",
            "no:benchmark",  # it warns where several workers run
            "-p",
            "analyses.gpu_tests.slow_first",
            "-p",
            "analyses.gpu_tests.tuning",
            "--tb=short",
            *(several if arguments.workers > 1 else []),
            *(arguments.tests or marked_files()),
        ],
        [keeper],
    )
    keeper.write()
    found = json.loads(arguments.results.read_text(encoding="utf-8"))
    print(f"{found['machine'].get('gpu', 'no GPU')}: {found['outcomes']} in {found['seconds']} s")
    for reason, count in found["skipped"].items():
        print(f"skipped {count}: {reason}")
    for name, seconds in found["not_ended"].items():
        print(f"not ended after {seconds} s: {name}")
    for name, reason in found["failed"].items():
        print(f"failed: {name}: {reason}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
