"""The dashboard in a real browser: every interaction of Layers and Maps; nothing but itself runs."""

import re
import runpy
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from ssmlens.store import open_capture

DASHBOARD = Path(__file__).parents[1] / "dashboard"
HOSTILE = runpy.run_path(str(DASHBOARD / "hostile.py"))["HOSTILE"]
write_capture = runpy.run_path(str(DASHBOARD / "synthetic.py"))["write_capture"]


@pytest.fixture(scope="module")
def address(serve, copies, tmp_path_factory):
    """A dashboard over two shipped models, the copying one first."""
    folder = tmp_path_factory.mktemp("shipped")
    for name, model in (("a-copies", "copy-mamba1-mimetic"), ("b-does-not", "copy-mamba1-default")):
        shutil.copy(copies(model, 17), folder / f"{name}.h5")
    return serve(folder)


@pytest.fixture(scope="module")
def stored(copies):
    with open_capture(copies("copy-mamba1-mimetic", 17)) as capture:
        yield capture


def drawn(page, title):
    """Wait until the map of that title is drawn."""
    page.locator("#maps-map-title", has_text=re.compile(f"^{title}$")).wait_for()
    page.wait_for_selector(
        "#maps-map .layer-below image, #maps-map .imagelayer image", state="attached"
    )


def plot(page):
    """The drawing area of the map, once what is above it is there and it is where it will stay."""
    page.locator("nav a").first.wait_for()
    page.wait_for_load_state("networkidle")
    page.locator("#maps-map .nsewdrag").hover(
        position={"x": 2, "y": 2}
    )  # waits until it stands still
    return page.locator("#maps-map .nsewdrag").bounding_box()


def test_hover_names_tokens_and_the_stored_value_and_a_click_takes_the_query(
    visit, address, stored
):
    page = visit(f"{address}/maps?layer=3")
    drawn(page, "Layer 3: attention map")
    tokens = stored.token_strings(0)
    box, n = plot(page), len(tokens)
    query, key = 25, 8
    at = box["x"] + (key + 0.5) / n * box["width"], box["y"] + (query + 0.5) / n * box["height"]
    page.mouse.move(*at)
    page.locator("#hover", has_text="value").wait_for()
    lines = page.locator("#hover").inner_text().splitlines()
    assert lines[0].split() == ["query", str(query), tokens[query]]
    assert lines[1].split() == ["key", str(key), tokens[key]]
    value = stored.layer(3).attention_map(0)[query, key]
    assert np.isclose(float(lines[2].split()[1]), value, rtol=5e-3)
    page.mouse.click(*at)
    page.locator("#maps-row-title", has_text=f"row of query {query} {tokens[query]}").wait_for()
    assert f"query={query}" in page.url
    share = "all => all.map(token => +token.style.getPropertyValue('--share'))"
    shares = page.eval_on_selector_all("#maps-text .token", share)
    row = np.abs(stored.layer(3).attention_map(0)[query])
    assert np.allclose(shares, row / row.max(), atol=2e-3)
    page.locator("#maps-text .token").nth(30).click()
    page.locator("#maps-row-title", has_text="row of query 30").wait_for()


def test_tokens_stand_on_both_axes_and_every_scale_colours_the_map(visit, address, stored):
    page = visit(f"{address}/maps?layer=3&zoom=5-12,2-9")
    drawn(page, "Layer 3: attention map")
    tokens = stored.token_strings(0)
    for axis, (first, end) in (("y", (5, 12)), ("x", (2, 9))):
        labels = page.locator(f"#maps-map .{axis}tick text").all_text_contents()
        assert [label.split() for label in labels] == [
            [str(i), tokens[i]] for i in range(first, end)
        ]
    source = "() => document.querySelector('#maps-map .js-plotly-plot').layout.images[0].source"
    pictures = [page.evaluate(source)]
    for scale in ("symlog", "rank"):
        page.locator(".toolbar").get_by_text(scale, exact=True).click()
        page.wait_for_function(f"last => ({source})() !== last", arg=pictures[-1])
        pictures.append(page.evaluate(source))
        assert f"scale={scale}" in page.url
    page.locator(".toolbar").get_by_text("linear", exact=True).click()
    page.wait_for_function(f"first => ({source})() === first", arg=pictures[0])
    assert len(set(pictures)) == 3
    lags = (
        "() => document.querySelector('#maps-lags .js-plotly-plot').calcdata[0].map(({ y }) => y)"
    )
    energy = page.evaluate(lags)
    assert int(np.argmax(energy[4:])) + 4 == 17, "the model copies 17 letters"


def test_zoom_is_in_the_address_and_comes_back_from_it(visit, address):
    page = visit(f"{address}/maps?layer=3")
    drawn(page, "Layer 3: attention map")
    box = plot(page)
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.9, steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile("zoom="))
    rows, columns = re.search(r"zoom=(\d+-\d+)(?:,|%2C)(\d+-\d+)", page.url).groups()
    shown = "() => document.querySelector('#maps-map .js-plotly-plot').layout"
    first, end = map(int, rows.split("-"))
    page.wait_for_function(f"() => ({shown})().yaxis.range[0] === {end - 0.5}")
    assert page.evaluate(f"({shown})().yaxis.range") == [end - 0.5, first - 0.5]
    again = visit(page.url)
    drawn(again, "Layer 3: attention map")
    expected = [int(column) - 0.5 for column in columns.split("-")]
    assert again.evaluate(f"({shown})().xaxis.range") == expected
    again.mouse.dblclick(box["x"] + 200, box["y"] + 400)
    again.wait_for_function("() => !location.search.includes('zoom')")


def test_arrows_controls_and_selects_are_one_with_the_address(visit, address):
    page = visit(f"{address}/maps?layer=2")
    drawn(page, "Layer 2: attention map")
    page.keyboard.press("ArrowRight")
    drawn(page, "Layer 3: attention map")
    page.keyboard.press("ArrowRight")  # there is none further
    page.get_by_text("channel", exact=True).click()
    drawn(page, "Layer 3: channel 0")
    page.locator("main").click(position={"x": 2, "y": 2})
    page.keyboard.press("ArrowDown")
    drawn(page, "Layer 3: channel 1")
    page.get_by_text("rank", exact=True).click()
    page.wait_for_url(re.compile("scale=rank"))
    assert page.get_by_role("radio", name="rank").is_checked()
    page.get_by_label("Capture").first.click()
    page.get_by_role("option", name="b-does-not.h5").click()
    page.wait_for_url(re.compile("capture=[0-9a-f]{10}"))
    drawn(page, "Layer 3: channel 1")
    page.go_back()
    page.wait_for_function("() => !location.search.includes('capture')")
    page.reload()
    drawn(page, "Layer 3: channel 1")
    assert page.get_by_role("radio", name="rank").is_checked()


def test_downloads_and_dark(visit, address):
    page = visit(f"{address}/maps?layer=3", scheme="dark")
    drawn(page, "Layer 3: attention map")
    assert "theme=dark" in page.url
    background = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(14, 17, 22)"
    for button, start in (
        ("SVG", b"<svg"),
        ("PNG", b"\x89PNG"),
        ("CSV", b"query,key"),
        ("netCDF", b"\x89HDF"),
    ):
        with page.expect_download() as caught:
            page.get_by_text(button, exact=True).first.click()
        assert Path(caught.value.path()).read_bytes().startswith(start), button
    page.locator("#theme-switch").click()
    page.wait_for_function(
        "() => getComputedStyle(document.body).backgroundColor === 'rgb(244, 245, 247)'"
    )


def test_hostile_text_is_shown_and_runs_nothing(visit, serve, tmp_path):
    words = [text.replace("\x00", "") for text in HOSTILE]
    write_capture(
        tmp_path / "<img src=x onerror=window.hacked=99>.h5",
        layers=2,
        tokens=len(words),
        broken=[1],
        token_strings=words,
        **{
            "model": words[2],
            "mixer": words[3],
            "reason": words[4],
            "prompt_text": words[5],
            "prompt_kind": words[6],
        },
    )
    address = serve(tmp_path)
    page = visit(f"{address}/layers")
    page.locator("#layers-table .ag-row").nth(1).wait_for()
    assert words[2] in page.locator(".facts").inner_text()
    assert words[4] in page.locator(".block.bad").inner_text()
    page.goto(f"{address}/maps?layer=0&query=20")
    drawn(page, "Layer 0: attention map")
    box = plot(page)
    for row in range(0, len(words), 3):
        page.mouse.move(box["x"] + 4, box["y"] + (row + 0.5) / len(words) * box["height"])
        page.locator("#hover", has_text=f"query  {row} ").wait_for()
    page.get_by_label("Capture").first.click()
    page.get_by_label("Prompt").first.click()
    assert page.evaluate("window.hacked") is None
    assert (
        page.locator("main iframe, main script, main object, #maps-text img, #hover *").count() == 0
    )


def test_what_goes_bad_while_open_is_a_message_and_comes_back(visit, serve, tmp_path):
    path = write_capture(tmp_path / "run.h5", layers=3, tokens=20)
    sound = tmp_path / "sound.bin"
    shutil.copy(path, sound)
    page = visit(f"{serve(path)}/maps?layer=0")
    drawn(page, "Layer 0: attention map")
    path.write_bytes(sound.read_bytes()[:5000])
    page.keyboard.press("ArrowRight")
    page.locator(".trouble").wait_for()
    assert "run.h5" in page.locator(".trouble").inner_text()
    assert str(tmp_path) not in page.content()
    assert "Traceback" not in page.content()
    shutil.copy(sound, path)
    page.get_by_text("try again").click()
    drawn(page, "Layer 1: attention map")
    with h5py.File(shutil.copy(sound, tmp_path / "other.bin"), "r+") as file:
        file.attrs["schema_version"] = 99
        file.attrs["needs"] = np.bytes_(b"more-than-this")
    (tmp_path / "other.bin").rename(path)
    page.keyboard.press("ArrowLeft")
    page.locator(".trouble", has_text="99").wait_for()
    path.unlink()
    page.get_by_text("try again").click()
    page.locator(".trouble", has_text=re.compile("no capture|no longer")).wait_for()
    assert str(tmp_path) not in page.content()


@pytest.mark.parametrize(
    ("name", "figure"),
    [("layers", "scores"), ("signals", "steps"), ("weights", "inputs"), ("compare", "maps")],
)
def test_every_page_downloads_its_figures_and_numbers(visit, address, name, figure):
    page = visit(f"{address}/{name}?layer=3")
    page.wait_for_selector(f"#{name}-{figure} .main-svg image", state="attached")
    card = page.locator("section", has=page.locator(f"#{name}-{figure}"))
    for where, button, start in (
        (card, "SVG", b"<svg"),
        (card, "PNG", b"\x89PNG"),
        (page, "CSV", None),
        (page, "netCDF", b"\x89HDF"),
    ):
        with page.expect_download() as caught:
            where.get_by_text(button, exact=True).first.click()
        got = Path(caught.value.path()).read_bytes()
        assert got.startswith(start) if start else got.count(b"\n") > 3, button
