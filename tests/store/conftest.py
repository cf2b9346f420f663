import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def sample():
    """The functions of sample_capture.py: a small capture and its oracle."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("sample_capture.py"))))
