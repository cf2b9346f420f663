import runpy
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@pytest.fixture(scope="session")
def make_capture():
    """Builds a capture in memory (tests/plots/fake_capture.py)."""
    fake = Path(__file__).parents[1] / "plots" / "fake_capture.py"
    return runpy.run_path(str(fake))["make_capture"]


@pytest.fixture(scope="session")
def browser():
    """Debian's chromium, driven by Playwright, which never downloads one of its own."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()
