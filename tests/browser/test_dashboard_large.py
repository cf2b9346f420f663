"""The main interactions on captures of mamba-370m's shape, of long prompts, and with attention layers."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from ssmlens.store import open_capture

write_capture = runpy.run_path(str(Path(__file__).parents[1] / "dashboard" / "synthetic.py"))[
    "write_capture"
]
MIXED = runpy.run_path(str(Path(__file__).parents[1] / "dashboard" / "mixed_layers.py"))
MOST_BYTES = 3_000_000
LAYERS, TOKENS = 48, 1024


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    return write_capture(folder / "large.h5", LAYERS, TOKENS, heads=64, state=16)


@pytest.fixture(scope="module")
def address(serve, large):
    return serve(large)


def titled(page, title):
    page.locator("#maps-map-title", has_text=re.compile(f"^{title}$")).wait_for()
    page.wait_for_selector("#maps-map .main-svg image", state="attached")


def rows_shown(page, first, end):
    page.wait_for_function(
        "([first, end]) => {"
        "  const { range } = document.querySelector('#maps-map .js-plotly-plot')._fullLayout.yaxis;"
        "  return range[0] === end - 0.5 && range[1] === first - 0.5; }",
        arg=[first, end],
    )


def read_at(page, across, down):
    """What the pointer is told at a place of the map, in shares of its sides: query, key, value."""
    box = page.locator("#maps-map .nsewdrag").bounding_box()
    page.mouse.move(2, 2)
    page.locator("#hover").wait_for(state="hidden")
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    page.locator("#hover", has_text="value").wait_for()
    query, key, value = (line.split() for line in page.locator("#hover").inner_text().splitlines())
    assert (query[0], key[0], value[0]) == ("query", "key", "value")
    assert (query[2], key[2]) == (f"w{int(query[1]) % 97}", f"w{int(key[1]) % 97}")
    return int(query[1]), int(key[1]), float(value[1])


def test_the_first_page_of_48_layers_leads_to_a_layer(visit, address):
    sizes = []
    page = visit("about:blank")
    page.on("response", lambda answer: sizes.append(len(answer.body())))
    page.goto(f"{address}/")
    page.locator(".block").nth(LAYERS - 1).wait_for()
    page.locator("#layers-table .ag-row").nth(5).wait_for()
    assert page.locator(".pictures img").count() == 2 * LAYERS
    libraries = page.evaluate(
        "() => performance.getEntriesByType('resource').filter(({ name }) => name.includes('_dash-component'))"
        ".reduce((sum, { decodedBodySize }) => sum + decodedBodySize, 0)"
    )
    assert sum(sizes) - libraries < MOST_BYTES
    page.wait_for_selector("#layers-scores .heatmaplayer image", state="attached")
    page.locator("#layers-scores .nsewdrag").first.click()
    titled(page, r"Layer \d+: attention map")


def test_layers_channels_and_zoom_at_full_resolution(visit, address, large):
    sizes = []
    page = visit(f"{address}/maps?layer=20")
    titled(page, "Layer 20: attention map")
    page.on("response", lambda answer: sizes.append(len(answer.body())))
    page.keyboard.press("ArrowRight")
    titled(page, "Layer 21: attention map")
    page.evaluate("() => ssmlens.go({ zoom: '512-600,300-388' })")
    rows_shown(page, 512, 600)
    with open_capture(large) as capture:
        whole = capture.layer(21).attention_map(0)
    query, key, value = read_at(page, 33.5 / 88, 43.5 / 88)
    assert (query, key) == (555, 333)
    assert np.isclose(value, whole[555, 333], rtol=6e-3)
    page.evaluate("() => ssmlens.go({ zoom: null })")
    rows_shown(page, 0, TOKENS)
    query, key, value = read_at(page, 0.2, 0.7)
    assert abs(query - 0.7 * TOKENS) < 3
    assert abs(key - 0.2 * TOKENS) < 3
    assert np.isclose(value, whole[query, key], rtol=6e-3), "of the token, not of the pixel"
    page.get_by_text("channel", exact=True).click()
    titled(page, "Layer 21: channel 0")
    page.locator("main").click(position={"x": 2, "y": 2})
    for channel in (1, 2, 3):
        page.keyboard.press("ArrowDown")
        titled(page, f"Layer 21: channel {channel}")
    thumb = page.get_by_role("slider")
    thumb.focus()
    thumb.press("ArrowRight")
    page.wait_for_url(re.compile("channel=4"))
    titled(page, "Layer 21: channel 4")
    assert max(sizes) < MOST_BYTES


def test_another_query_leaves_the_map_as_it_is_but_for_its_mark(visit, address):
    page = visit(f"{address}/maps?layer=5&query=100")
    titled(page, "Layer 5: attention map")
    answers = []
    page.on(
        "response",
        lambda answer: answers.append(answer.json()) if "update-component" in answer.url else None,
    )
    page.evaluate("() => ssmlens.go({ query: 900 })")
    page.locator("#maps-row-title", has_text="row of query 900").wait_for()
    mark = "() => document.querySelector('#maps-map .js-plotly-plot')._fullLayout.shapes[0].y0"
    page.wait_for_function(f"() => ({mark})() === 900")
    assert max(len(json.dumps(answer)) for answer in answers) < 60_000
    assert page.locator("#maps-map .main-svg image").count() == 1
    page.reload()
    titled(page, "Layer 5: attention map")
    page.wait_for_function(f"() => ({mark})() === 900")


def test_attention_layers_have_a_map_and_nothing_else(visit, serve, tmp_path):
    MIXED["write_mixed"](tmp_path / "mixed.h5")
    page = visit(f"{serve(tmp_path)}/maps?layer=3")
    titled(page, "Layer 3: attention map")
    assert page.locator("#maps-map").is_visible()
    choices = page.locator(".toolbar .mantine-SegmentedControl-root").first
    choices.get_by_text("map", exact=True).wait_for()
    assert choices.get_by_text("mask", exact=True).count() == 0


def test_a_view_that_a_layer_has_not_is_still_chosen_at_the_next(visit, serve, tmp_path):
    MIXED["write_mixed"](tmp_path / "mixed.h5")
    page = visit(f"{serve(tmp_path)}/maps?layer=2&view=mask")
    titled(page, "Layer 2: attention mask")
    page.keyboard.press("ArrowRight")
    titled(page, "Layer 3: attention map")
    page.locator("#notes", has_text="layer 3 has no mask; its map is shown").wait_for()
    page.keyboard.press("ArrowLeft")
    titled(page, "Layer 2: attention mask")
    assert page.get_by_role("radio", name="mask").is_checked()
