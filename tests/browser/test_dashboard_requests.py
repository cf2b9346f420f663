"""What an interaction costs, counted: requests of the server, and tokens that are coloured."""

import runpy
from pathlib import Path

import pytest

write_capture = runpy.run_path(str(Path(__file__).parents[1] / "dashboard" / "synthetic.py"))[
    "write_capture"
]
TOKENS = 1500


@pytest.fixture(scope="module")
def address(serve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("requests")
    return serve(write_capture(folder / "two.h5", layers=2, tokens=TOKENS, seed=5))


def test_a_change_asks_for_the_view_and_what_surrounds_it_and_nothing_else(visit, address):
    page = visit(f"{address}/maps?layer=0")
    page.locator("#maps-text .token").first.wait_for()
    page.wait_for_load_state("networkidle")
    asked = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(address)))
    for change, title in (
        ("{layer: 1}", "Layer 1: attention map, row of query 1499"),
        ("{query: 700}", "Layer 1: attention map, row of query 700"),
        ("{view: 'channel', channel: 3}", "Layer 1: channel 3, row of query 700"),
    ):
        asked.clear()
        page.evaluate(f"ssmlens.go({change})")
        page.locator("#maps-row-title", has_text=title).wait_for()
        page.wait_for_load_state("networkidle")
        posted = [url.split("?")[0] for url in asked if not url.startswith("data:")]
        assert posted == ["/_dash-update-component"] * 2


def test_text_out_of_sight_is_coloured_when_it_comes_into_sight(visit, address):
    page = visit(f"{address}/maps?layer=0&query={TOKENS - 1}")
    page.locator("#maps-text .token").first.wait_for()
    page.wait_for_load_state("networkidle")
    assert page.locator("#maps-text [data-token]").count() == TOKENS
    page.evaluate("ssmlens.go({query: 2})")
    page.locator("#maps-text [data-token='2'].query").wait_for()
    last = page.locator(f"#maps-text [data-token='{TOKENS - 1}']")
    assert "later" not in (last.get_attribute("class") or "")
    last.scroll_into_view_if_needed()
    page.locator(f"#maps-text [data-token='{TOKENS - 1}'].token.later").wait_for()


def test_a_row_is_painted_where_the_pointer_rests_and_asked_for_once(visit, address):
    page = visit(f"{address}/maps?layer=0&query=40")
    title = page.locator("#maps-row-title")
    title.filter(has_text="row of query 40").wait_for()
    page.locator("#maps-text [data-token='40'].query").wait_for()
    page.wait_for_load_state("networkidle")
    asked = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(address)))
    page.evaluate(
        """() => [7, 8, 9, 12].forEach((token) => document.querySelector(`#maps-text [data-token='${token}']`)
             .dispatchEvent(new MouseEvent('mousemove', { bubbles: true })))"""
    )
    title.filter(has_text="row of query 12").wait_for()
    page.locator("#maps-text [data-token='12'].query").wait_for()
    page.wait_for_load_state("networkidle")
    (row,) = asked
    assert row.startswith("/values?")
    assert "zoom=12-13%2C0-13" in row
    values = page.evaluate(
        f"async () => [...new Float32Array(await (await fetch('{row}')).arrayBuffer())]"
    )
    shares = page.eval_on_selector_all(
        "#maps-text .token",
        "all => all.slice(0, 13).map(one => +one.style.getPropertyValue('--share'))",
    )
    largest = max(map(abs, values))
    assert shares == pytest.approx([abs(v) / largest for v in values], abs=2e-3)
    page.mouse.move(2, 2)
    title.filter(has_text="row of query 40").wait_for()
    page.locator("#maps-text [data-token='40'].query").wait_for()
    assert "query=40" in page.url, "a click pins a row, a pointer does not"
