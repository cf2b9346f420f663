import runpy
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


PATIENCE = 60_000  # ms: a busy machine took more than 10 s to open a file


@pytest.fixture(scope="session")
def make_capture():
    """Builds a capture in memory (tests/plot/fake_capture.py)."""
    fake = Path(__file__).parents[1] / "plot" / "fake_capture.py"
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


@pytest.fixture(scope="session")
def serve():
    """serve(path, ...): the address of a dashboard over these paths."""
    from ssmlens_dashboard.app import make_app
    from ssmlens_dashboard.guard import Access
    from ssmlens_dashboard.serve import listen, server_on

    servers = []

    def start(*paths):
        here = listen("127.0.0.1", 0)
        port = here.getsockname()[1]
        server = server_on(here, make_app(paths, Access(port=port)).server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append((server, here))
        return f"http://127.0.0.1:{port}"

    yield start
    for server, here in servers:
        server.shutdown()
        server.server_close()
        here.close()


@pytest.fixture
def visit(browser):
    """visit(url): a page; when the test is over, nothing may have been logged or asked of another server."""
    logged, requests, contexts = [], [], []

    def open_page(url, scheme="light"):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert logged == []
    own = ("http://127.0.0.1:", "file:", "data:", "blob:")
    assert [url for url in requests if not url.startswith(own)] == []


@pytest.fixture(scope="session")
def point_at():
    """point_at(page, figure, row, column, (rows, columns)): move to a cell of a figure, once it stands still."""

    def point(page, figure, row, column, shape):
        rows, columns = shape
        page.wait_for_load_state("networkidle")
        area = page.locator(f"#{figure} .nsewdrag").first
        area.hover(position={"x": 2, "y": 2})
        box = area.bounding_box()
        page.mouse.move(
            box["x"] + (column + 0.5) / columns * box["width"],
            box["y"] + (row + 0.5) / rows * box["height"],
        )

    return point


@pytest.fixture
def hold():
    """with hold(page, output): what the page asks of the server is answered when the block is left, as if it were slow.

    Only requests whose body has `output` in it wait; by default all do.
    """

    @contextmanager
    def held(page, output=""):
        waiting = []

        def keep(route):
            if output in (route.request.post_data or ""):
                waiting.append(route)
            else:
                route.continue_()

        page.route("**/_dash-update-component?*", keep)
        yield
        # In their order, and before the browser stops asking: what waits when it stops may never be sent.
        while waiting:
            waiting.pop(0).continue_()
        page.unroute("**/_dash-update-component?*", keep)
        for route in waiting:
            route.continue_()

    return held
