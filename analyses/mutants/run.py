"""Would the tests notice? Mutants of the core, drawn at random, and the tests of what they change.

    pip install cosmic-ray
    python -m analyses.mutants.run --count 400      # resumes where it stopped

cosmic-ray says which mutants there are (an operator replaced, a comparison turned, a number changed, a branch negated,
a loop emptied). Each is written into a copy of the checkout. The tests run in a fork of one process that has imported
the libraries, which is what makes hundreds of mutants affordable: first the tests of the same name, then those of the
same folder, then those that use it from further away. A mutant is caught when one fails that passes without it.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOMS = ("scan", "recorder", "store", "scores", "inits", "tasks", "runs")
CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results.jsonl"
# Tests of code that uses each folder.
FURTHER = {
    "scan": ["tests/contracts/test_adapters.py", "tests/edits"],
    "recorder": ["tests/contracts/test_adapters.py", "tests/cli/test_capture.py"],
    "store": ["tests/reliability", "tests/cli/test_capture.py"],
    "scores": ["tests/cli", "tests/plot"],
    "inits": ["tests/training"],
    "tasks": ["tests/training"],
    "runs": ["tests/cli", "tests/training/test_sweep.py"],
}
_SECONDS = 600.0  # most seconds for a stage of tests


def mutants(room: str) -> Iterator[dict[str, Any]]:
    """Every mutant of the modules of a room: module, operator and occurrence, and the line it stands on."""
    from cosmic_ray.ast import get_ast  # pyright: ignore[reportMissingImports]
    from cosmic_ray.plugins import get_operator, operator_names  # pyright: ignore[reportMissingImports]

    names = [
        name for name in sorted(operator_names()) if "BitOr" not in name
    ]  # mostly in annotations
    for path in sorted((CHECKOUT / "ssmlens" / room).rglob("*.py")):
        nodes = list(_walk(get_ast(path.read_text(encoding="utf-8"))))
        for name in names:
            kind = get_operator(name)
            if kind.arguments():
                continue
            operator = kind()
            places = [place for node in nodes for place in operator.mutation_positions(node)]
            for occurrence, place in enumerate(places):
                yield {
                    "module": str(path.relative_to(CHECKOUT)),
                    "operator": name.removeprefix("core/"),
                    "occurrence": occurrence,
                    "line": place[0][0],
                }


def mutated(mutant: dict[str, Any], source: str) -> str | None:
    """Return the module's source with the mutant; None if the operator does not change it."""
    from cosmic_ray.mutating import mutate_code  # pyright: ignore[reportMissingImports]
    from cosmic_ray.plugins import get_operator  # pyright: ignore[reportMissingImports]

    return mutate_code(source, get_operator(f"core/{mutant['operator']}")(), mutant["occurrence"])


def stages(module: str) -> list[list[str]]:
    """Tests to run one after the other: of the module's name, of its folder, of what uses it."""
    path = Path(module).relative_to("ssmlens")
    folder = Path("tests") / path.parts[0]
    own = sorted((CHECKOUT / folder).rglob(f"test_{path.stem}*.py"))
    named = [[str(test.relative_to(CHECKOUT)) for test in own]] if own else []
    return [*named, [str(folder)], FURTHER[path.parts[0]]]


def passes(copy: Path, tests: list[str]) -> bool | None:
    """Run the tests in a copy of the checkout and a separate process; return whether they pass, None on a time-out."""
    child = os.fork()
    if child == 0:
        _run_tests(copy, tests)
    ends = time.monotonic() + _SECONDS
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run_tests(copy: Path, tests: list[str]) -> None:
    import sys

    os.setpgid(0, 0)
    os.chdir(copy)
    sys.path[:0] = [str(copy), str(copy / "apps")]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    import pytest

    code = 99
    with contextlib.suppress(BaseException):
        imported = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *imported, *tests]))
    os._exit(code)


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for child in getattr(node, "children", ()):
        yield from _walk(child)


def _import_libraries() -> None:
    import beartype  # noqa: F401
    import h5py  # noqa: F401
    import jaxtyping  # noqa: F401
    import plotly.graph_objects  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch
    import transformers  # noqa: F401
    import xarray  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    """Draw mutants, run tests, append a line each to results.jsonl."""
    parser = argparse.ArgumentParser(description="Would the tests notice?")
    parser.add_argument("--count", type=int, default=400, help="mutants of all rooms together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    every = [mutant for room in asked.rooms for mutant in mutants(room)]
    chosen = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    print(f"{len(every)} mutants, of which {len(chosen)} are drawn")
    done = set()
    if asked.results.exists():
        lines = map(json.loads, asked.results.read_text(encoding="utf-8").splitlines())
        done = {(line["module"], line["operator"], line["occurrence"]) for line in lines}
    _import_libraries()
    ends = time.monotonic() + 60 * asked.minutes
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        copy.mkdir()
        files = subprocess.run(
            ["git", "ls-files"], cwd=CHECKOUT, check=True, capture_output=True, text=True
        )
        for name in files.stdout.splitlines():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / name, copy / name)
        pass_without: dict[str, bool] = {}
        for mutant in chosen:
            key = (mutant["module"], mutant["operator"], mutant["occurrence"])
            if key in done or time.monotonic() > ends:
                continue
            told = _examine(mutant, copy, pass_without)
            with asked.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
            print(told["outcome"], told["module"], told["line"], told["operator"], flush=True)


def _examine(mutant: dict[str, Any], copy: Path, pass_without: dict[str, bool]) -> dict[str, Any]:
    """A mutant with its outcome: "survived", or "caught" with the stage of tests that did.

    Raises:
        SystemExit: Tests fail without any mutant, too.
    """
    path = copy / mutant["module"]
    source = path.read_text(encoding="utf-8")
    changed = mutated(mutant, source)
    if changed is None or changed == source:
        return {**mutant, "outcome": "no change"}
    before, after = source.splitlines(), changed.splitlines()
    first = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    told = {**mutant, "line": first + 1, "was": before[first].strip(), "is": after[first].strip()}
    for number, tests in enumerate(stages(mutant["module"])):
        path.write_text(changed, encoding="utf-8")
        passed = passes(copy, tests)
        path.write_text(source, encoding="utf-8")
        if passed:
            continue
        name = " ".join(tests)
        if name not in pass_without:
            pass_without[name] = passes(copy, tests) is True
        if not pass_without[name]:
            raise SystemExit(f"{name}: these tests do not pass without a mutant")
        outcome = "did not end" if passed is None else "caught"
        return {**told, "outcome": outcome, "stage": number}
    return {**told, "outcome": "survived"}


if __name__ == "__main__":
    main()
