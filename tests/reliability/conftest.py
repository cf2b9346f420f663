import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

_SAMPLE = Path(__file__).parents[1] / "store" / "sample_capture.py"


@pytest.fixture(scope="session")
def sample():
    """The functions of tests/store/sample_capture.py: a small capture and its oracle."""
    return SimpleNamespace(**runpy.run_path(str(_SAMPLE)))
