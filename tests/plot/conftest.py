import runpy
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def make_capture():
    """Builds a capture in memory (fake_capture.py)."""
    return runpy.run_path(str(Path(__file__).with_name("fake_capture.py")))["make_capture"]
