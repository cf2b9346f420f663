"""Compare in a real browser: one zoom and one pointer for all maps, places chosen, added and taken out."""

import re
import shutil

import numpy as np
import pytest

from ssmlens.store import open_capture

RANGES = """() => {
  const { _fullLayout: l } = document.querySelector('#compare-maps .js-plotly-plot');
  return ['xaxis', 'xaxis2', 'xaxis3', 'yaxis', 'yaxis2', 'yaxis3'].map((name) => l[name].range.join(' '));
}"""


@pytest.fixture(scope="module")
def address(serve, copies, tmp_path_factory):
    """A dashboard over the model that never learned to copy and the one that did."""
    folder = tmp_path_factory.mktemp("pair")
    for word in ("default", "mimetic"):
        shutil.copy(copies(f"copy-mamba1-{word}", 17), folder / f"copy-{word}.h5")
    return serve(folder)


@pytest.fixture(scope="module")
def stored(copies):
    """The maps of layer 3, prompt 0."""
    maps = []
    for word in ("default", "mimetic"):
        with open_capture(copies(f"copy-mamba1-{word}", 17)) as capture:
            maps.append(capture.layer(3).read("attention_map", 0))
    return maps


def panel(page, number):
    """The drawing area of a panel."""
    name = "xy" if number == 1 else f"x{number}y{number}"
    return page.locator(f"#compare-maps .nsewdrag[data-subplot={name}]")


def test_two_models_their_difference_one_pointer_and_one_zoom(visit, address, stored):
    page = visit(f"{address}/compare?layer=3")
    panel(page, 3).wait_for()
    assert page.locator("#compare-maps .main-svg image").count() == 3
    tokens = len(stored[0])
    box = panel(page, 2).bounding_box()
    cell = box["width"] / tokens, box["height"] / tokens
    page.mouse.move(box["x"] + 4.5 * cell[0], box["y"] + 21.5 * cell[1])
    label = page.locator("#compare-hover")
    label.get_by_text("query 21   key 4").wait_for()
    values = [
        float(v)
        for v in re.findall(r"^[AB](?: − B)? +(-?[\d.e-]+)", label.inner_text(), re.MULTILINE)
    ]
    a, b = (float(m[21, 4]) for m in stored)
    assert np.allclose(values, [a, b, a - b], rtol=6e-3)

    page.mouse.move(box["x"] + 4.5 * cell[0], box["y"] + 17.5 * cell[1])
    page.mouse.down()
    page.mouse.move(box["x"] + 12.5 * cell[0], box["y"] + 29.5 * cell[1], steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile(r"zoom=1[78]-(29|30)%2C[45]-1[23]"))
    page.wait_for_function(f"() => new Set(({RANGES})().slice(0, 3)).size === 1")
    page.wait_for_function(f"() => ({RANGES})()[0].match(/^[34].5 1[12].5$/)")
    assert len(set(page.evaluate(RANGES)[3:])) == 1
    page.locator("#compare-whole").click()
    page.wait_for_url(lambda url: "zoom" not in url)


def test_maps_are_no_wider_than_their_card(visit, address):
    """At 1280 and at 800 pixels, where their least height asks for a width that there is not."""
    page = visit(f"{address}/compare?layer=3")
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 800})
        panel(page, 3).wait_for()
        page.wait_for_function(
            """() => {
              const graph = document.getElementById("compare-maps"), card = graph.closest(".card");
              const room = card.clientWidth - 2 * parseFloat(getComputedStyle(card).paddingLeft);
              return Math.abs(graph.clientWidth - room) < 1;
            }"""
        )


def test_arrows_move_both_and_selects_one_place(visit, address):
    page = visit(f"{address}/compare?layer=3")
    panel(page, 3).wait_for()
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(re.compile(r"layer=2&against=[0-9a-f]{10}\.2\.0$"))
    page.locator(".place").get_by_role("textbox", name="Layer").click()
    page.locator("[role=option]:visible", has_text="layer 0").click()
    page.wait_for_url(re.compile(r"layer=2&against=[0-9a-f]{10}\.0\.0$"))
    page.locator("#compare-maps").get_by_text("B  copy-mimetic, layer 0").wait_for()
    page.locator("h2").first.click()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile(r"layer=3&against=[0-9a-f]{10}\.0\.0$"))


def test_places_are_added_and_taken_out_and_suggested(visit, address):
    page = visit(f"{address}/compare?layer=3", scheme="dark")
    panel(page, 3).wait_for()
    page.locator("#compare-add").click()
    panel(page, 5).wait_for()
    page.get_by_role("button", name="Remove B").click()
    page.wait_for_url(re.compile(r"against=[0-9a-f]{10}\.3\.0(&|$)"))
    page.get_by_text("prompt 0 and prompt 1").click()
    page.get_by_text("B  layer 3, prompt 1").first.wait_for()
    page.locator("#compare-scores th", has_text="copy_score").wait_for()


def test_an_answer_that_comes_late_closes_no_list_and_sets_nothing_back(visit, address, hold):
    page = visit(f"{address}/compare?layer=3")
    panel(page, 3).wait_for()
    with hold(page):
        page.keyboard.press("ArrowLeft")
        page.wait_for_url(re.compile(r"layer=2&against=[0-9a-f]{10}\.2\.0$"))
        page.locator(".place").get_by_role("textbox", name="Layer").click()
        page.locator("[role=option]:visible", has_text="layer 0").wait_for()
    page.locator("#compare-maps").get_by_text("B  copy-mimetic, layer 2").wait_for()
    with hold(page):
        page.locator("[role=option]:visible", has_text="layer 0").click()
        page.wait_for_url(re.compile(r"layer=2&against=[0-9a-f]{10}\.0\.0$"))
        page.get_by_text("symlog", exact=True).click()
        page.get_by_text("own limits", exact=True).click()
    page.locator("#compare-maps").get_by_text("B  copy-mimetic, layer 0").wait_for()
    page.wait_for_url(re.compile(r"layer=2&against=[0-9a-f]{10}\.0\.0&scale=symlog&limits=own$"))
    chosen = page.locator(".toolbar input:checked")
    assert chosen.evaluate_all("all => all.map(one => one.value)") == ["map", "symlog", "own"]


def test_places_are_those_of_the_address_before_an_answer_comes(visit, address, hold):
    page = visit(f"{address}/compare?layer=3")
    panel(page, 3).wait_for()
    layer, prompt = (
        page.locator(".place").get_by_role("textbox", name=name) for name in ("Layer", "Prompt")
    )
    shows = "([one, value]) => one.value.startsWith(value)"
    with hold(page):
        layer.click()
        page.locator("[role=option]:visible", has_text="layer 0").click()
        page.wait_for_url(re.compile(r"against=[0-9a-f]{10}\.0\.0$"))
        page.go_back()
        page.wait_for_url(re.compile(r"layer=3$"))
        page.wait_for_function(shows, arg=[layer.element_handle(), "layer 3"])
    page.wait_for_load_state("networkidle")
    assert layer.input_value() == "layer 3"
    page.locator("h2").first.click()
    with hold(page):
        page.keyboard.press("ArrowLeft")
        page.wait_for_url(re.compile(r"layer=2&against=[0-9a-f]{10}\.2\.0$"))
        page.wait_for_function(shows, arg=[layer.element_handle(), "layer 2"])
        prompt.click()
        page.locator("[role=option]:visible", has_text="prompt 1").click()
        page.wait_for_url(re.compile(r"layer=2&against=[0-9a-f]{10}\.2\.1$"))
    page.locator("#compare-maps").get_by_text(re.compile("^B  .*, layer 2, prompt 1$")).wait_for()
    assert prompt.input_value().startswith("prompt 1")


def test_arrows_pressed_before_the_places_are_known_move_all_of_them(visit, address, hold):
    page = visit("about:blank")
    with hold(page, "compare-sides"):  # the maps are there, who stands beside is not known
        page.goto(f"{address}/compare?layer=3")
        page.locator("#compare-maps").get_by_text("A − B").wait_for()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
    page.wait_for_url(re.compile(r"layer=1&against=[0-9a-f]{10}\.1\.0$"))
    page.locator("#compare-maps").get_by_text(re.compile("^B  .*layer 1$")).wait_for()


def test_layer_against_layer_of_another_model_and_prompt_against_prompt(visit, address, stored):
    page = visit(f"{address}/compare?layer=3")
    panel(page, 3).wait_for()
    beside = page.locator(".place:visible", has=page.get_by_role("textbox", name="Layer"))
    for part, option in (("Capture", "copy-mimetic"), ("Layer", "layer 1"), ("Prompt", "prompt 1")):
        beside.get_by_role("textbox", name=part).click()
        page.locator("[role=option]:visible", has_text=option).click()
    page.wait_for_url(re.compile(r"against=[0-9a-f]{10}\.1\.1$"))
    maps = page.locator("#compare-maps")
    maps.get_by_text(re.compile("^A  .*, layer 3, prompt 0$")).wait_for()
    maps.get_by_text(re.compile("^B  .*, layer 1, prompt 1$")).wait_for()
    maps.get_by_text(re.compile("^A − B")).wait_for()
    page.get_by_text("channel", exact=True).click()
    page.get_by_text("Channel 0 side by side").wait_for()
    page.get_by_role("slider").press("End")
    page.get_by_text("Channel 383 side by side").wait_for()
    assert "channel=383" in page.url
