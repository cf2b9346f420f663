import os
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

_SAMPLE = Path(__file__).parents[1] / "store" / "sample_capture.py"


@pytest.fixture(scope="session")
def sample():
    """The functions of tests/store/sample_capture.py: a small capture and its oracle."""
    return SimpleNamespace(**runpy.run_path(str(_SAMPLE)))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def fill():
    """fill(folder, leave): a file that takes all of a small disk but `leave` bytes; its path."""

    def make(folder, leave):
        ballast = folder / "ballast"
        state = os.statvfs(folder)
        ballast.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - leave)))
        return ballast

    return make
