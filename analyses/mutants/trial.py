"""Tests run in a copy of the checkout, in a fork of a process that has imported the libraries."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_COLLECTS_NOTHING = 5  # pytest's exit code where every test is left out


@dataclass(frozen=True)
class Trial:
    """How a run of tests went.

    Attributes:
        ended: Whether it ended in its time.
        passed: Whether every test that ran passed.
        failed: The tests that did not, or the files that could not be collected.
        seconds: How long it took.
    """

    ended: bool
    passed: bool
    failed: tuple[str, ...]
    seconds: float


def run_tests(
    copy: Path,
    tests: Sequence[str],
    limit: float,
    left_out: Sequence[str] = (),
    *,
    stop_at_first: bool = True,
) -> Trial:
    """Run test files in a process of its own, which is killed after `limit` seconds.

    `left_out` are tests not to run. With `stop_at_first`, the first failure ends it.
    """
    report = copy.parent / "report"
    report.write_text("")
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_child(copy, [*tests, *(f"--deselect={test}" for test in left_out)], stop_at_first)
    with contextlib.suppress(PermissionError, ProcessLookupError):  # it has done so itself
        os.setpgid(child, child)
    code = _wait(child, limit)
    failed = tuple(json.loads(line) for line in report.read_text().splitlines())
    return Trial(
        ended=code is not None,
        passed=code in (0, _COLLECTS_NOTHING) and not failed,
        failed=failed,
        seconds=time.monotonic() - begun,
    )


class _Failures:
    """A plugin of pytest's that writes down what fails."""

    def __init__(self, report: Path) -> None:
        self._report = report

    def pytest_runtest_logreport(self, report) -> None:
        self._note(report)

    def pytest_collectreport(self, report) -> None:
        self._note(report)

    def _note(self, report) -> None:
        if report.failed:
            with self._report.open("a") as file:
                file.write(json.dumps(report.nodeid) + "\n")


def _be_the_child(copy: Path, words: list[str], stop_at_first: bool) -> None:
    import sys

    code = 99
    with contextlib.suppress(BaseException):
        os.setpgid(0, 0)
        os.chdir(copy)
        paths = [str(copy), str(copy / "apps")]
        sys.path[:0] = paths
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
        os.environ["TMPDIR"] = str(copy.parent / "tmp")
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        import pytest
        from hypothesis import settings

        settings.register_profile("trial", derandomize=True, database=None)
        settings.load_profile("trial")
        options = ["-q", "-p", "no:cacheprovider", "--tb=no"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # imported before it looked
        options += [f"--basetemp={copy.parent / 'tmp' / 'pytest'}"]
        options += ["-x"] if stop_at_first else ["--continue-on-collection-errors"]
        code = int(pytest.main([*options, *words], plugins=[_Failures(copy.parent / "report")]))
    os._exit(code)


def _wait(child: int, limit: float) -> int | None:
    """The child's exit code; None where it had to be killed."""
    ends = time.monotonic() + limit
    code = None
    while code is None and time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # with whatever it started
    if code is None:
        os.waitpid(child, 0)
    return code
