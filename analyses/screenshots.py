"""`python -m analyses.screenshots` makes data/screenshots again from the captures of `ssmlens demo`. Needs chromium."""

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from ssmlens_dashboard.app import make_app
from ssmlens_dashboard.guard import Access
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.serve import listen, server_on

from ssmlens.cli.dashboard import side_by_side
from ssmlens.cli.demo import DemoCommand

SCREENSHOTS = Path(__file__).parents[1] / "data" / "screenshots"

_SCREEN: Any = {"width": 1280, "height": 800}
_SHARPNESS = 1.5  # pixels of the picture per pixel of the page
_LAYER, _QUERY = 3, 60  # of copy-mamba1-mimetic: the layer that copies, and a letter of the copy
_ROOM = 12  # pixels below the last figure
_QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]


def main() -> None:
    """Capture, serve and take the screenshots."""
    with tempfile.TemporaryDirectory() as folder, listen("127.0.0.1", 0) as listener:
        outputs = DemoCommand(out=Path(folder), serve=False).run().data
        copies, never = Path(outputs["capture"]["out"]), Path(outputs["beside"])
        identifier = Library([copies]).entries("capture")[0].id
        port = listener.getsockname()[1]
        server = server_on(listener, make_app([Path(folder)], Access(port=port)).server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{port}/"
        views = {
            "compare": (side_by_side(never, copies, _LAYER), "#compare-maps"),
            "maps": (f"maps?capture={identifier}&layer={_LAYER}&query={_QUERY}", "#maps-map"),
        }
        with sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=_QUIET)
            page = chromium.new_page(viewport=_SCREEN, device_scale_factor=_SHARPNESS)
            for name, (view, figure) in views.items():
                page.goto(address + view)
                _photograph(page, figure, SCREENSHOTS / f"{name}.png")
            chromium.close()
        server.shutdown()
        server.server_close()


def _photograph(page: Page, figure: str, file: Path) -> None:
    """Take a screenshot from the top of the page to the end of a figure's card."""
    page.wait_for_selector(f"{figure} .main-svg image", state="attached")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1000)  # until fonts and colours settle
    card = page.locator(".card", has=page.locator(figure)).bounding_box()
    assert card is not None
    end = min(_SCREEN["height"], card["y"] + card["height"] + _ROOM)
    page.screenshot(path=file, clip={"x": 0, "y": 0, "width": _SCREEN["width"], "height": end})
    print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
