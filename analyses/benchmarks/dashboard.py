"""`python -m analyses.benchmarks.dashboard`: measure a reader's waiting times in a real browser.

On the Maps page, at 2048 tokens, it measures from the change of the address to the frame that shows it: the next layer
or channel by an arrow, a distant layer or channel, a zoom, another query. Each view is opened for the first time. Then
it measures the first page of a capture of mamba-370m's shape (48 layers, 1024 tokens), and the bytes and requests of
each view. Server, browser and all other processes share the cores; the results include the load average.
"""

import math
import os
import runpy
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from ssmlens_dashboard.app import make_app
from ssmlens_dashboard.guard import Access
from ssmlens_dashboard.serve import listen, server_on

from analyses.benchmarks import results
from ssmlens.cli.dashboard import leave_cores

_LAYERS, _TOKENS, _HEADS, _STATE = 26, 2048, 1024, 16
_SYNTHETIC = results.CHECKOUT / "tests" / "dashboard" / "synthetic.py"
_QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
_PAUSE = 250  # milliseconds between two interactions
_CHANGE = """([change, done]) => new Promise((resolve) => {
  const start = performance.now();
  const shown = () => requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start), 0));
  if (done) {
    const element = document.querySelector(done);
    const seen = new MutationObserver(() => { seen.disconnect(); shown(); });
    seen.observe(element, { childList: true, characterData: true, subtree: true, attributes: true });
  } else document.querySelector("#maps-map .js-plotly-plot").once("plotly_afterplot", shown);
  window.ssmlens.go(change);
})"""
_FIRST_PAGE = """() => document.querySelectorAll(".block").length === 48
  && document.querySelector("#layers-scores .heatmaplayer image")
  && document.querySelectorAll("#layers-table .ag-row").length >= 8"""

_ALL_SCORED = "() => document.querySelector('#layers-progress').textContent === ''"
_FIRST_PAGES = 7


def main() -> None:
    """Print the measurements and write results/dashboard.json."""
    leave_cores()
    write_capture = runpy.run_path(str(_SYNTHETIC))["write_capture"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=_QUIET)
        long = write_capture(Path(folder) / "long.h5", _LAYERS, _TOKENS, _HEADS, _STATE)
        with _dashboard(long) as address:
            interactions = _interactions(chromium.new_page(viewport=_SCREEN), address)
        long.unlink()
        deep = write_capture(Path(folder) / "deep.h5", 48, 1024, 64, _STATE)
        first = _first_pages(chromium, deep)
        chromium.close()
    measurements = {"machine": results.machine(), "interactions": interactions, "first_page": first}
    print(f"written: {results.write('dashboard', measurements)}")


_SCREEN: Any = {"width": 1280, "height": 900}


@contextmanager
def _dashboard(path: Path) -> Iterator[str]:
    """The address of a dashboard over a capture."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = server_on(listener, make_app([path], Access(port=port)).server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.shutdown()
            server.server_close()


def _interactions(page: Page, address: str) -> dict[str, dict[str, float]]:
    received: list[int] = []
    page.on("response", lambda answer: received.append(_size(answer)))
    page.goto(f"{address}/maps?layer=0")
    page.wait_for_selector("#maps-map .main-svg image", state="attached")
    page.wait_for_timeout(2000)
    edges = [(37 * i, 37 * i + 900 - 11 * i) for i in range(25)]
    series: dict[str, tuple[list[dict[str, object]], str | None]] = {
        "next layer": ([{"layer": i} for i in range(1, _LAYERS)], None),
        "other layer": ([{"view": "mask", "layer": i} for i in range(0, _LAYERS, 2)], None),
        "zoom": ([{"zoom": f"{a}-{b},{a // 2}-{b - a // 2}"} for a, b in edges], None),
        "next channel": (
            [{"view": "channel", "zoom": None, "channel": i} for i in range(2, 27)],
            None,
        ),
        "other channel": ([{"channel": 60 + 30 * i} for i in range(25)], None),
        "query": ([{"query": 100 + 70 * i} for i in range(25)], "#maps-row-title"),
    }
    measurements = {}
    for name, (changes, finished) in series.items():
        seconds = []
        before, answers = sum(received), len(received)
        for change in changes:
            seconds.append(page.evaluate(_CHANGE, [change, finished]))
            page.wait_for_timeout(_PAUSE)
        measurements[name] = {
            "median_ms": round(statistics.median(seconds), 1),
            "p95_ms": round(_p95(seconds), 1),
            "most_ms": round(max(seconds), 1),
            "bytes_a_view": round((sum(received) - before) / len(changes)),
            "requests_a_view": round((len(received) - answers) / len(changes), 1),
            "load_average": round(os.getloadavg()[0], 1),
        }
        print(name, measurements[name], flush=True)
    return measurements


def _first_pages(chromium: Browser, capture: Path) -> dict[str, Any]:
    """Time the first page of a fresh server and browser, several times."""
    visible, scored, sent = [], [], []
    for _ in range(_FIRST_PAGES):
        received: list[int] = []
        with _dashboard(capture) as address, chromium.new_context(viewport=_SCREEN) as context:
            page = context.new_page()
            page.on("response", lambda answer, received=received: received.append(_size(answer)))
            start = time.perf_counter()
            page.goto(f"{address}/layers")
            page.wait_for_function(_FIRST_PAGE, timeout=60_000)
            visible.append(round(time.perf_counter() - start, 2))
            page.wait_for_function(_ALL_SCORED, timeout=60_000)
            scored.append(round(time.perf_counter() - start, 2))
            page.wait_for_timeout(1000)  # thumbnails come last
        sent.append(sum(received))
    measurements = {
        "shown_s": statistics.median(visible),
        "most_shown_s": max(visible),
        "scored_s": statistics.median(scored),
        "bytes": max(sent),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print("first page", measurements, flush=True)
    return measurements


def _size(answer: Any) -> int:
    """Return the bytes of an answer without the libraries' scripts, which are cached and the same for every view."""
    if "/_dash-component-suites/" in answer.url or "/assets/" in answer.url:
        return 0
    return int(answer.headers.get("content-length", 0))


def _p95(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


if __name__ == "__main__":
    main()
