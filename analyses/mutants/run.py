"""Mutation tests: run the tests on mutants of the core, drawn at random.

    pip install cosmic-ray
    python -m analyses.mutants.run --count 400      # resumes if it was stopped

cosmic-ray finds the mutants (an operator replaced, a comparison turned, a number changed, a branch negated, a loop
emptied). Each worker has a copy of the checkout and writes one mutant at a time into it. The tests run in a fork of a
process that has already imported the libraries, which saves most of the time. Tests of the same name run first, then
those of the same folder and those in other folders that use the module, the fastest files first. Before that, every
file runs once without a mutant. Tests that fail then are left out, as are files that do not collect or do not end; the
results name them. A mutant is caught if a test fails that passes without it.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from analyses.mutants.draw import draw, mutated
from analyses.mutants.trial import Trial, run_tests

ROOMS = ("scan", "recorder", "store", "scores", "inits", "tasks", "runs")
CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results.jsonl"
# Tests in other folders that use a room.
FURTHER = {
    "scan": ["tests/contracts/test_adapters.py", "tests/edits"],
    "recorder": ["tests/contracts/test_adapters.py", "tests/cli/test_capture_effects.py"],
    "store": ["tests/reliability", "tests/cli/test_verify_finds.py"],
    "scores": ["tests/cli/test_commands.py", "tests/plot/test_of_captures.py"],
    "inits": ["tests/training/test_loop.py", "tests/cli/test_train_transplant.py"],
    "tasks": ["tests/training/test_loop.py", "tests/training/test_config_parts.py"],
    "runs": ["tests/cli/test_train_compare.py", "tests/cli/test_train_validate.py"],
}


@dataclass
class Worker:
    """A process that tests mutants: its copy of the checkout, and the time at which it must end.

    Attributes:
        copy: A copy of the checkout that no other process writes to.
        ends: When to stop, in time.monotonic().
        written: How many times it has written a module. Each write gets a new file time: Python reuses a compiled
            module if the source has the same size and the same time in seconds.
    """

    copy: Path
    ends: float
    written: int = 0

    def write(self, module: str, source: str) -> None:
        """Write a module so that Python compiles it again."""
        path = self.copy / module
        path.write_text(source, encoding="utf-8")
        self.written += 1
        when = 1_000_000_000 + 2 * self.written
        os.utime(path, (when, when))

    def time_left(self) -> float:
        """Seconds until the end."""
        return self.ends - time.monotonic()


def tests_of(module: str, *, near: bool) -> tuple[list[str], list[str]]:
    """The test files of the module's name; and those of its room and, unless `near`, of other folders."""
    path = Path(module).relative_to("ssmlens")
    room = path.parts[0]
    own = _files(f"tests/{room}", f"test_{path.stem}*.py")
    further = [] if near else [file for place in FURTHER[room] for file in _files(place)]
    others = [file for file in [*_files(f"tests/{room}"), *further] if file not in own]
    return own, list(dict.fromkeys(others))


def measure(file: str, limit: float) -> Trial:
    """Run a test file without a mutant."""
    worker = _worker()
    limit = min(limit, worker.time_left())
    if limit <= 0:
        return Trial(ended=False, passed=False, failed=(), seconds=0)
    return run_tests(worker.copy, [file], limit, stop_at_first=False)


def examine(mutant: dict[str, Any], alone: dict[str, Trial]) -> dict[str, Any] | None:
    """A mutant with its outcome: "survived", "caught", "did not end", or "no change" of the module's source.

    `alone` holds the test files that ran without a mutant. None where it has none for this module, or the time left
    does not suffice for all of them.
    """
    worker = _worker()
    own, others = (
        _quickest_first(files, alone) for files in tests_of(mutant["module"], near=False)
    )
    seconds = sum(alone[file].seconds for file in [*own, *others])
    if not 0 < seconds < worker.time_left():
        return None
    source = (worker.copy / mutant["module"]).read_text(encoding="utf-8")
    changed = mutated(mutant, source)
    if changed is None or changed == source:
        return {**mutant, "outcome": "no change"}
    line, was, now = _what_changed(source, changed)
    row, lines = {**mutant, "line": line}, {"was": was, "is": now}
    for files in filter(None, (own, others)):
        expected = sum(alone[file].seconds for file in files)
        limit = min(20 + 3 * expected, worker.time_left())
        left_out = [test for file in files for test in alone[file].failed]
        worker.write(mutant["module"], changed)
        trial = run_tests(worker.copy, files, limit, left_out)
        worker.write(mutant["module"], source)
        if not trial.ended and limit < 20 + 3 * expected:
            return None
        if not trial.ended:
            return {**row, "outcome": "did not end", **lines}
        if not trial.passed:
            return {**row, "outcome": "caught", "by": trial.failed[0] if trial.failed else ""}
    return {**row, "outcome": "survived", **lines}


def main() -> None:
    """Draw mutants, run tests, append a line each to the results."""
    parser = argparse.ArgumentParser(description="Would the tests notice?")
    parser.add_argument("--count", type=int, default=400, help="mutants of all rooms together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after these")
    parser.add_argument(
        "--file-seconds", type=float, default=120, help="leave out test files that take longer"
    )
    parser.add_argument("--near", action="store_true", help="the tests of the same folder alone")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    ends = time.monotonic() + arguments.seconds
    chosen = draw(CHECKOUT, arguments.rooms, arguments.count, arguments.seed)
    done = _examined(arguments.results)
    chosen = [mutant for mutant in chosen if _key(mutant) not in done]
    print(f"{len(chosen)} mutants to try", flush=True)
    _import_libraries()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, _no_process_left():
        context = get_context("fork")
        pool = ProcessPoolExecutor(arguments.workers, context, _begin_worker, (folder, ends))
        with pool, arguments.results.open("a", encoding="utf-8") as results:
            alone = _measure_all(pool, chosen, arguments)
            futures: list[Future[dict[str, Any] | None]]
            futures = [pool.submit(examine, mutant, alone) for mutant in chosen]
            outcomes: Counter[str] = Counter()
            for future in as_completed(futures):
                line = future.result()
                outcomes[line["outcome"] if line else "not tried"] += 1
                if line:
                    results.write(json.dumps(line) + "\n")
                    results.flush()
                if line and line["outcome"] == "survived":
                    print(line["module"], line["line"], line["is"], flush=True)
            print(dict(outcomes), flush=True)


def _measure_all(
    pool: ProcessPoolExecutor, chosen: list[dict[str, Any]], arguments: argparse.Namespace
) -> dict[str, Trial]:
    """Run the test files of the mutants' modules; return those that collect and end, and print the others."""
    modules = sorted({mutant["module"] for mutant in chosen})
    files = dict.fromkeys(
        file
        for module in modules
        for part in tests_of(module, near=arguments.near)
        for file in part
    )
    # The large ones first, so that none is left to run alone.
    ordered = sorted(files, key=lambda file: -(CHECKOUT / file).stat().st_size)
    trials = dict(
        zip(
            ordered,
            pool.map(measure, ordered, [arguments.file_seconds] * len(ordered)),
            strict=True,
        )
    )
    alone = {}
    for file, trial in sorted(trials.items()):
        if not trial.ended:
            print(f"left out, did not end in {trial.seconds:.0f} s: {file}")
        elif not trial.passed and (not trial.failed or file in trial.failed):
            print(f"left out, does not run here: {file}")
        else:
            alone[file] = trial
            if trial.failed:
                print(f"left out of {file}: {len(trial.failed)} tests that fail here", flush=True)
    seconds = sum(trial.seconds for trial in alone.values())
    print(f"{len(alone)} test files, {seconds:.0f} s of tests", flush=True)
    return alone


def _quickest_first(files: list[str], alone: dict[str, Trial]) -> list[str]:
    return sorted((file for file in files if file in alone), key=lambda file: alone[file].seconds)


def _files(place: str, pattern: str = "test_*.py") -> list[str]:
    path = CHECKOUT / place
    found = [path] if path.is_file() else sorted(path.rglob(pattern))
    return [str(file.relative_to(CHECKOUT)) for file in found]


def _what_changed(source: str, changed: str) -> tuple[int, str, str]:
    """Number of the first line that differs, and the line before and after."""
    before, after = source.splitlines(), changed.splitlines()
    first = next(n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    return first + 1, before[first].strip(), after[first].strip()


def _key(mutant: dict[str, Any]) -> tuple[str, str, int]:
    return mutant["module"], mutant["operator"], mutant["occurrence"]


def _examined(results: Path) -> set[tuple[str, str, int]]:
    if not results.exists():
        return set()
    return {_key(json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines()}


_the_worker: list[Worker] = []


def _worker() -> Worker:
    (worker,) = _the_worker
    return worker


def _begin_worker(folder: str, ends: float) -> None:
    home = Path(tempfile.mkdtemp(dir=folder))
    (home / "tmp").mkdir()
    copy = home / "checkout"
    for name in _tracked_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, copy / name)
    _the_worker.append(Worker(copy, ends))


def _tracked_files() -> list[str]:
    """The files that git tracks. Outside a repository, all files of the folders."""
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [name for name in listed.stdout.splitlines() if (CHECKOUT / name).is_file()]
    folders = ("ssmlens", "apps", "analyses", "tests", "data", "docs")
    files = [
        *CHECKOUT.glob("*.*"),
        *(file for part in folders for file in CHECKOUT.glob(f"{part}/**/*")),
    ]
    return [str(file.relative_to(CHECKOUT)) for file in files if file.is_file()]


@contextlib.contextmanager
def _no_process_left() -> Iterator[None]:
    """End all processes that were started inside the `with` block, also those that a killed test left running."""
    import ctypes

    import psutil

    adopt_orphans = 36  # PR_SET_CHILD_SUBREAPER
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(adopt_orphans, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        yield
    finally:
        left = psutil.Process().children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)


def _import_libraries() -> None:
    import importlib

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for name in ("beartype", "h5py", "hypothesis", "jaxtyping", "plotly.graph_objects", "pytest"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import scipy.stats  # noqa: F401
    import torch
    import transformers  # noqa: F401
    import xarray  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
