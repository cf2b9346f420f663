"""The Layers page in a real browser: scores, ranking, thumbnails, what does not close, the way to a layer."""

import re
import runpy
from pathlib import Path

import pytest

write_capture = runpy.run_path(str(Path(__file__).parents[1] / "dashboard" / "synthetic.py"))[
    "write_capture"
]


@pytest.fixture(scope="module")
def address(serve, copies):
    """A dashboard over a model that copies, two prompts."""
    return serve(copies("copy-mamba1-mimetic", 17))


def drawn(page, title):
    """Wait until the map of that title is drawn."""
    page.locator("#maps-map-title", has_text=re.compile(f"^{title}$")).wait_for()
    page.wait_for_selector("#maps-map .main-svg image", state="attached")


def test_layers_shows_scores_ranking_and_thumbnails_and_leads_to_the_layer(visit, address):
    page = visit(f"{address}/")
    page.wait_for_selector("#layers-scores .heatmaplayer image, #layers-scores .hm")
    page.locator("#layers-table [row-index='0'] [col-id='layer']", has_text="3").wait_for()
    assert "ordered by copy_score" in page.locator("#layers-notes").inner_text()
    assert "every layer reproduces" in page.locator(".facts").inner_text()
    pictures = page.locator(".pictures img")
    assert pictures.count() == 8
    pictures.first.scroll_into_view_if_needed()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.pictures img')].every(i => i.naturalWidth > 20)"
    )
    page.locator("#layers-table .ag-header-cell[col-id='layer']").click()
    page.locator("#layers-table [row-index='0'] [col-id='layer']", has_text="0").wait_for()
    page.locator("#layers-table [row-index='0'] [col-id='kind']").click()
    drawn(page, "Layer 0: attention map")
    page.go_back()
    page.locator(".pictures a").nth(7).click()
    drawn(page, "Layer 3: attention mask")
    assert "layer=3" in page.url


def test_another_score_orders_the_layers_and_is_in_the_address(visit, address):
    page = visit(f"{address}/layers")
    notes, chosen = page.locator("#layers-notes"), page.get_by_role("textbox", name="Order by")
    notes.filter(has_text="ordered by copy_score").wait_for()
    assert chosen.input_value() == "the default order"
    chosen.click()
    page.get_by_role("option", name="memory_length").click()
    page.wait_for_url("**by=memory_length**")
    notes.filter(has_text="ordered by memory_length").wait_for()

    def lengths():
        cells = page.locator("#layers-table [row-id] [col-id='memory_length']")
        rows = page.locator("#layers-table .ag-center-cols-container [row-index]")
        at = [int(row) for row in rows.evaluate_all("a => a.map(r => r.getAttribute('row-index'))")]
        values = [float(text) for text in cells.all_inner_texts()]
        return [value for _, value in sorted(zip(at, values, strict=True))]

    assert lengths() == sorted(lengths(), reverse=True)
    page.reload()
    notes.filter(has_text="ordered by memory_length").wait_for()
    assert chosen.input_value() == "memory_length"
    page.go_back()
    notes.filter(has_text="ordered by copy_score").wait_for()
    page.wait_for_function(
        "input => input.value === 'the default order'", arg=chosen.element_handle()
    )


def test_what_does_not_close_or_is_not_finite_is_seen_at_once(visit, serve, tmp_path):
    path = write_capture(
        tmp_path / "harmed.h5",
        layers=[0, 2, 3],
        tokens=20,
        closure=[1e-6, 0.5],
        broken=[3],
        block_kinds=["mamba", "mlp", "mamba", "mamba"],
    )
    page = visit(f"{serve(path)}/layers")
    page.locator(".block").nth(3).wait_for()
    assert "does not close: layer 2, 3" in page.locator(".facts .failed").inner_text()
    assert page.locator(".block").evaluate_all("all => all.map(it => it.className)") == [
        "block",
        "block other",
        "block bad",
        "block bad",
    ]
    assert page.locator(".block").nth(1).inner_text().split() == ["1", "mlp"]
    assert "closure_error 5.0e-01 > 1e-04" in page.locator(".block").nth(2).inner_text()
    assert "weights not finite: W_B has NaN" in page.locator(".block").nth(3).inner_text()
    page.locator("#layers-table .ag-row").nth(2).wait_for()
    told = page.locator("#layers-table [col-id='closure'].failed")
    told.nth(1).wait_for()
    for column in ("closure", "reason"):
        seen = page.locator(f"#layers-table .ag-row [col-id='{column}']").first.bounding_box()
        assert seen["x"] + seen["width"] < 1280, "seen without scrolling"
    rows = page.locator("#layers-table .ag-center-cols-container [row-id='3']")
    assert rows.get_attribute("row-index") == "2", "what is not finite stands last"


def test_another_prompt_has_its_own_pictures_and_is_in_the_address(visit, address):
    page = visit(f"{address}/layers")
    picture = page.locator(".pictures img").first
    page.get_by_role("textbox", name="Prompt").click()
    page.get_by_role("option").nth(1).click()
    page.wait_for_url("**prompt=1**")
    page.wait_for_function(
        "() => { const picture = document.querySelector('.pictures img');"
        " return picture && picture.src.includes('prompt=1') && picture.naturalWidth > 20; }"
    )
    picture.click()
    drawn(page, "Layer 0: attention map")
    assert {"layer=0", "prompt=1"} <= set(page.url.split("?")[1].split("&"))
