"""Signals and Weights in a real browser: tokens under the pointer, zoom, order, groups, layers that have none."""

import re
import runpy
import shutil
from pathlib import Path

import pytest

from ssmlens.store import open_capture

DASHBOARD = Path(__file__).parents[1] / "dashboard"
HOSTILE = runpy.run_path(str(DASHBOARD / "hostile.py"))["HOSTILE"]
MIXED = runpy.run_path(str(DASHBOARD / "mixed_layers.py"))
synthetic = runpy.run_path(str(DASHBOARD / "synthetic.py"))
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def address(serve, copies, tmp_path_factory):
    """A dashboard over a shipped model, and a capture with a layer of every kind."""
    folder = tmp_path_factory.mktemp("signals")
    shutil.copy(copies("copy-mamba1-mimetic", 17), folder / "a-copies.h5")
    MIXED["write_mixed"](folder / "b-mixed.h5")
    return serve(folder)


@pytest.fixture(scope="module")
def stored(copies):
    """Δ of layer 3, prompt 0."""
    with open_capture(copies("copy-mamba1-mimetic", 17)) as capture:
        return capture.layer(3).read("delta", 0)


def plot(page, figure):
    """The drawing area of a figure, once it is drawn."""
    area = page.locator(f"#{figure} .nsewdrag").first
    area.wait_for()
    return area.bounding_box()


def shown(page, figure, what):
    """Something of a figure's layout."""
    return page.evaluate(
        f"() => document.querySelector('#{figure} .js-plotly-plot')._fullLayout.{what}"
    )


def told(page, text):
    page.locator("#signals-status, #weights-status").get_by_text(re.compile(text)).wait_for()


def test_the_pointer_reads_token_heads_and_their_step(visit, address, stored):
    page = visit(f"{address}/signals?layer=3")
    told(page, "^layer 3: 384 heads")
    box = plot(page, "signals-steps")
    tokens, rows = len(stored), 192
    row, token = 83, 9
    page.mouse.move(
        box["x"] + (token + 0.5) * box["width"] / tokens,
        box["y"] + (row + 0.5) * box["height"] / rows,
    )
    page.wait_for_selector("#signals-steps .hoverlayer text")
    text = page.locator("#signals-steps .hoverlayer").text_content()
    assert re.search(r"token\s+9 ", text)
    assert "166–167" in text
    value = float(re.search(r"Δ\s+([\d.e-]+)", text)[1])
    assert value == pytest.approx(stored[token, 166:168].mean(), rel=6e-3)


def test_dragging_over_tokens_zooms_both_and_two_clicks_undo_it(visit, address, stored):
    page = visit(f"{address}/signals?layer=3")
    told(page, "^layer 3")
    box = plot(page, "signals-norms")
    width = box["width"] / len(stored)
    page.mouse.move(box["x"] + 4.2 * width, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 12.2 * width, box["y"] + 34, steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile(r"zoom=[45]-1[23]%2C[45]-1[23]"))
    meta = "document.querySelector('#{} .js-plotly-plot').layout.meta.first"
    for figure in ("signals-steps", "signals-norms"):
        page.wait_for_function(f"() => [4, 5].includes({meta.format(figure)})")
        labels = shown(page, figure, "xaxis.categoryarray")
        assert labels[0].split()[0] in ("4", "5")
        assert len(labels) in (7, 8, 9)
    box = plot(page, "signals-steps")
    page.mouse.dblclick(box["x"] + 50, box["y"] + 50)
    page.wait_for_url(lambda url: "zoom" not in url)
    page.wait_for_function(f"() => {meta.format('signals-steps')} === 0")


def test_order_scale_and_arrows_are_in_the_address(visit, address):
    page = visit(f"{address}/signals?layer=2&scale=rank")
    told(page, "^layer 2")
    page.wait_for_selector("input[value=rank]:checked", state="attached")
    page.get_by_text("by mean Δ", exact=True).click()
    page.wait_for_url(re.compile("sort=step"))
    page.get_by_text("symlog", exact=True).click()
    page.wait_for_url(re.compile("scale=symlog"))
    page.locator("#signals-steps .ytitle", has_text="heads by mean Δ").wait_for()
    page.locator("h2").first.click()
    page.keyboard.press("ArrowRight")
    told(page, "^layer 3")
    assert "sort=step" in page.url
    page.go_back()
    page.go_back()
    page.wait_for_selector("input[value=rank]:checked", state="attached")


def test_a_layer_without_signals_says_so_and_the_next_has_them_again(visit, address):
    page = visit(f"{address}/signals?layer=2")
    page.get_by_role("textbox", name="Capture").click()
    page.locator("[role=option]:visible", has_text="b-mixed").click()
    told(page, "^layer 2: 6 heads")
    page.locator("h2").first.click()
    page.keyboard.press("ArrowRight")
    told(page, "^Layer 3 is softmax attention")
    assert not page.locator("#signals-figures").is_visible()
    page.keyboard.press("ArrowLeft")
    told(page, "^layer 2: 6 heads")
    assert plot(page, "signals-half-lives")["width"] > 200


def test_weights_of_a_layer_and_of_a_group(visit, address):
    page = visit(f"{address}/weights?layer=1")
    told(page, "^layer 1: 32 states, 384 inputs")
    assert not page.locator("#weights-group").is_visible()
    numbers = page.locator(".number").all_inner_texts()
    assert [text.split()[-1] for text in numbers] == [
        *("bc_correlation", "bc_z", "bc_effective", "bc_shift", "bc_identity")
    ]
    for figure in ("inputs", "states", "kernels"):
        page.wait_for_selector(f"#weights-{figure} .main-svg image")
    page.get_by_role("textbox", name="Capture").click()
    page.locator("[role=option]:visible", has_text="b-mixed").click()
    told(page, "group 0 of 2")
    page.get_by_text("group 1", exact=True).click()
    page.wait_for_url(re.compile("group=1"))
    told(page, "group 1 of 2")


def test_nothing_of_a_file_runs_and_every_view_is_light(visit, serve, tmp_path):
    tokens = [HOSTILE[i % len(HOSTILE)] for i in range(2048)]
    path = synthetic["write_capture"](
        *(tmp_path / "hostile.h5", 2, 2048, 512, 16), model=HOSTILE[0], token_strings=tokens
    )
    sizes = []
    page = visit("about:blank")
    page.on("response", lambda r: sizes.append(len(r.body())) if "update-component" in r.url else 0)
    page.goto(f"{serve(path)}/signals?sort=half-life")
    told(page, "^layer 0: 512 heads")
    box = plot(page, "signals-steps")
    page.mouse.move(box["x"] + 200, box["y"] + 100)
    page.wait_for_selector("#signals-steps .hoverlayer text")
    page.get_by_text("Weights", exact=True).click()
    told(page, "^layer 0")
    plot(page, "weights-taps")
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("main script, main img, main svg a").count() == 0
    assert max(sizes) < MOST_BYTES
