"""The report in a real browser: it opens in silence, shows every map, sorts, and runs nothing but itself."""

import numpy as np
import pytest
from two_way_models import two_way_capture

from ssmlens.plot.raster import causal
from ssmlens.plot.report_page import report
from ssmlens.plot.scales import SCALES, coloured
from ssmlens.plot.theme import SIGNED, UNIT
from ssmlens.store import open_capture

HOSTILE = [
    "</script><img src=x onerror=window.hacked=1>",
    "<svg onload=window.hacked=2>",
    "<img src=http://127.0.0.1:9/x onerror=window.hacked=3>",
    '"><b onmouseover=window.hacked=4>',
    "<a href='javascript:window.hacked=5'>x</a>",
    "\u2028</textarea>\u202e<!--",
]


@pytest.fixture
def show(visit, tmp_path):
    """show(capture): its report, opened."""

    def open_report(capture, scheme="light"):
        file = tmp_path / "report.html"
        report(capture).save(file)
        page = visit(file.as_uri(), scheme)
        page.wait_for_selector("#scores-figure .heatmaplayer image")
        return page

    return open_report


def large(page, layer, view=0):
    """Open a thumbnail and wait for its map."""
    page.locator(".card").nth(layer).locator(".thumb").nth(view).click()
    page.wait_for_selector("#map .heatmaplayer image")


def drawn(page, what):
    return page.evaluate(
        f"() => {{ const d = document.getElementById('map').data[0]; return {what}; }}"
    )


def picture(page, side):
    """Red, green, blue and opacity (0-255) in the middle of each cell of the map's image."""
    data = page.evaluate(
        """async (side) => {
          const image = new Image();
          image.src = document.getElementById("map").layout.images[0].source;
          await image.decode();
          const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
          const context = canvas.getContext("2d", { willReadFrequently: true }), cell = image.width / side, found = [];
          context.drawImage(image, 0, 0);
          for (let row = 0; row < side; row++)
            for (let key = 0; key < side; key++)
              found.push(...context.getImageData((key + 0.5) * cell, (row + 0.5) * cell, 1, 1).data);
          return found;
        }""",
        side,
    )
    return np.array(data).reshape(side, side, 4)


def test_a_thumbnail_opens_its_map_with_tokens_on_both_axes(show, make_capture):
    capture = make_capture(kinds=("recency", "copying"), lengths=(15, 9))
    page = show(capture)
    large(page, 1)
    tokens = [f"{i} {t}" for i, t in enumerate(capture.tokens[0])]
    assert drawn(page, "d.x") == drawn(page, "d.y") == tokens
    for axis in ("#map .xaxislayer-above text", "#map .yaxislayer-above text"):
        assert set(page.locator(axis).all_text_contents()) <= set(tokens)
        assert page.locator(axis).count() >= 7
    values = np.array(drawn(page, "d.customdata"), dtype=float)
    stored = causal(capture.layer(1).read("attention_map", 0))
    assert np.allclose(values, stored, rtol=2**-8, equal_nan=True)
    assert page.locator("#sharpest").inner_text() == ": most at 7 back"


def test_hover_names_query_key_and_value(show, make_capture):
    page = show(make_capture(kinds=("copying",), lengths=(15,)))
    large(page, 0)
    box = page.locator("#map .nsewdrag").bounding_box()
    cell = box["width"] / 15, box["height"] / 15
    page.mouse.move(box["x"] + 3.5 * cell[0], box["y"] + 10.5 * cell[1])
    page.wait_for_selector("#map .hoverlayer text")
    text = page.locator("#map .hoverlayer").text_content()
    assert "10 s" in text  # query 10, token s
    assert "3 v" in text
    assert "value" in text


@pytest.mark.parametrize("scale", SCALES)
def test_colour_scales_are_those_of_the_python_figures(show, make_capture, scale):
    capture = make_capture(kinds=("copying",), lengths=(23,))
    page = show(capture)
    for view, (name, signed) in enumerate([("attention_map", True), ("attention_mask", False)]):
        large(page, 0, view)
        page.locator("#scales button").nth(SCALES.index(scale)).click()
        page.wait_for_selector(
            f"#scales button:nth-child({SCALES.index(scale) + 1})[aria-pressed=true]"
        )
        page.wait_for_timeout(200)
        values = np.array(drawn(page, "d.customdata"), dtype=float)
        assert np.allclose(
            values, causal(capture.layer(0).read(name, 0)), rtol=2**-8, equal_nan=True
        )
        python = coloured(values.astype(np.float32), scale, signed=signed)
        strength = np.rint(np.abs(np.clip(python.position, -1, 1)) * (127 if signed else 254))
        share = np.nan_to_num(strength) / (127 if signed else 254)
        pixels = picture(page, len(values))
        assert np.array_equal(pixels[..., 3], np.rint(share * 255)), "as strong as in Python"
        for place in (np.nanargmax(values), np.nanargmin(values)):
            row, key = np.unravel_index(place, values.shape)
            end = SIGNED[0 if values[row, key] < 0 else -1] if signed else UNIT[-1]
            if pixels[row, key, 3] > 200:  # a canvas keeps the hue of what it can be seen of
                assert np.allclose(pixels[row, key, :3], end[1][:3], atol=2)
        places, texts = python.ticks
        bar = page.evaluate("document.getElementById('map').data[1].marker.colorbar")
        assert np.allclose(bar["tickvals"], places, atol=1e-5)
        assert tuple(bar["ticktext"]) == texts
        page.keyboard.press("Escape")


def test_views_layers_and_prompts_can_be_changed_by_keyboard(show, make_capture):
    page = show(make_capture(kinds=("recency", "copying", "recency"), lengths=(15, 9)))
    page.locator(".thumb").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#map .heatmaplayer image")
    assert page.locator("#large-title").inner_text() == "Layer 0"
    assert page.locator("#previous").is_disabled()
    page.keyboard.press("ArrowRight")
    page.locator("#large-title", has_text="Layer 1").wait_for()
    assert page.locator("#tabs button").all_inner_texts()[2:] == ["Channel 0", "Channel 5"]
    page.locator("#tabs button").nth(3).press("Enter")
    page.wait_for_selector("#tabs button:nth-child(4)[aria-pressed=true]")
    assert page.evaluate("document.activeElement.textContent") == "Channel 5"
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible()
    page.locator("#prompt").select_option("1")
    large(page, 0)
    assert len(drawn(page, "d.x")) == 9


def test_tables_sort_both_ways_with_empty_cells_last(show, make_capture):
    page = show(make_capture(kinds=("recency", "copying", "broken", "recency"), lengths=(40,)))
    table = page.locator("#scores table")
    heads = [h.replace("\n", "") for h in table.locator("th").all_inner_texts()]
    column = heads.index("diagonal_sharpness")

    def values():
        cells = table.locator(f"tbody td:nth-child({column + 1})")
        return [cell.get_attribute("data-value") for cell in cells.all()]

    before = values()
    expected = sorted((float(v) for v in before if v), reverse=True)
    button = table.locator("th button").nth(column)
    button.click()
    assert [float(v) for v in values()[:3]] == expected
    assert values()[3] is None
    button.press("Enter")
    assert [float(v) for v in values()[:3]] == expected[::-1]
    assert values()[3] is None
    assert table.locator("th").nth(column).get_attribute("aria-sort") == "ascending"


def test_cards_can_be_ordered_by_rank(show, make_capture):
    page = show(make_capture(kinds=("recency", "broken", "copying"), lengths=(40,)))
    titles = page.locator(".card h3")
    assert [t.split("\n")[0][:7] for t in titles.all_inner_texts()] == [
        f"Layer {i}" for i in range(3)
    ]
    page.locator("#order").select_option("rank")
    assert [t.split("\n")[0][:7] for t in titles.all_inner_texts()] == [
        "Layer 2",
        "Layer 0",
        "Layer 1",
    ]


def test_a_broken_layer_shows_a_note_and_no_map(show, make_capture):
    page = show(make_capture(kinds=("broken", "copying"), lengths=(15,)))
    card = page.locator(".card").first
    assert "weights are not finite" in card.inner_text()
    assert "✗ failed" in card.inner_text()
    card.locator(".thumb").first.click()
    assert "weights are not finite" in page.locator("#note").inner_text()
    assert page.locator("#map .heatmaplayer").count() == 0


def test_hostile_text_is_shown_and_runs_nothing(show, make_capture):
    capture = make_capture(
        lengths=(6, 6),
        tokens=[HOSTILE, HOSTILE],
        texts=HOSTILE[:2],
        attributes=dict.fromkeys(("model", "revision", "backend", "dtype", "command"), HOSTILE[0]),
    )
    capture.fakes[2].attributes["reason"] = HOSTILE[2]
    capture.prompt_kinds = HOSTILE[2:4]
    page = show(capture)
    assert page.locator("h1").inner_text() == HOSTILE[0]
    large(page, 1)
    box = page.locator("#map .nsewdrag").bounding_box()
    for row in range(6):
        page.mouse.move(box["x"] + 5, box["y"] + (row + 0.5) * box["height"] / 6)
        page.wait_for_timeout(60)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#map a, #map img, #map svg svg").count() == 0
    assert any(
        "</script>" in t for t in page.locator("#map .yaxislayer-above text").all_text_contents()
    )


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_prompts_open(show, make_capture, length):
    capture = make_capture(kinds=("recency",), lengths=(length, 30), channels=0)
    page = show(capture)
    large(page, 0)
    assert len(drawn(page, "d.z")) == length


def test_dark_and_light_follow_the_system(show, make_capture):
    page = show(make_capture(kinds=("copying",), lengths=(15,)), scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    ink = "document.getElementById('scores-figure').layout.template.layout.font.color"
    dark = page.evaluate(background), page.evaluate(ink)
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(500)  # the page's policy forbids waiting for an expression
    assert page.evaluate(background) != dark[0]
    assert page.evaluate(ink) != dark[1]


def test_nothing_is_wider_than_the_window(show, make_capture):
    page = show(make_capture(kinds=("copying",) * 5, lengths=(15,)))
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    large(page, 0)
    assert page.evaluate("document.getElementById('large').scrollWidth") <= 1280


def test_a_layer_that_looks_ahead_is_drawn_whole(show, typeseg, tmp_path):
    with open_capture(two_way_capture(typeseg, tmp_path / "run.h5")) as capture:
        page = show(capture)
        large(page, 1)
        wanted = capture.layer(1).attention_map()
        values = np.array(drawn(page, "d.customdata"), dtype=float)
        assert np.allclose(values, wanted, rtol=2**-8)
        assert (picture(page, len(wanted))[..., 3] > 0).mean() > 0.6
        lags = page.evaluate("document.getElementById('lags').data[0].x")
        assert min(lags) == -max(lags) < 0
