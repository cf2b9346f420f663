"""`make test-gpu` collects only the files with tests for a GPU."""

import subprocess
import sys

import pytest

from analyses.benchmarks.results import CHECKOUT
from analyses.gpu_tests.run import LANE, marked_files


@pytest.mark.slow  # it imports every test file
def test_the_marked_files_hold_every_test_of_the_lane():
    options = ["-m", LANE, "--collect-only", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options]
    everywhere, in_files = (
        subprocess.run([*command, *places], cwd=CHECKOUT, capture_output=True, text=True)
        for places in (["tests"], marked_files())
    )
    assert everywhere.returncode == in_files.returncode == 0, everywhere.stdout + in_files.stdout
    wanted, selected = (
        {line for line in run.stdout.splitlines() if "::" in line} for run in (everywhere, in_files)
    )
    assert selected == wanted
    assert len(wanted) > 50


def test_the_marked_files_are_not_the_dashboard_s():
    files = marked_files()
    assert "tests/edits/test_on_gpu.py" in files
    assert not [path for path in files if path.startswith(("tests/dashboard/", "tests/browser/"))]
