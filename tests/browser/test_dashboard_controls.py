"""The selects above every page: they follow the address in the browser, and never set it by themselves."""

import re
import shutil

import pytest


@pytest.fixture(scope="module")
def address(serve, copies, tmp_path_factory):
    """A dashboard over two models of four layers, two prompts each."""
    folder = tmp_path_factory.mktemp("two")
    for name, model in (("a", "copy-mamba1-mimetic"), ("b", "copy-mamba1-default")):
        shutil.copy(copies(model, 17), folder / f"{name}.h5")
    return serve(folder)


def chosen(page, name, value):
    """Wait until a select shows an option, told by how it begins."""
    select = page.get_by_role("textbox", name=name).first
    page.wait_for_function(
        "([one, value]) => one.value.startsWith(value)", arg=[select.element_handle(), value]
    )


def shown(page, name):
    return page.evaluate(f"() => ssmlens.shown('{name}')")


def test_what_was_chosen_last_stays_whatever_answer_comes(visit, address, hold):
    page = visit(f"{address}/maps")
    page.locator("#maps-map-title", has_text="Layer 0: attention map").wait_for()
    chosen(page, "Layer", "layer 0")
    assert shown(page, "layer") == "0", (
        "also where the address does not say and nothing was touched"
    )
    with hold(page):
        for name, option in (("Layer", "layer 2"), ("Prompt", "prompt 1"), ("Capture", "b.h5")):
            page.get_by_role("textbox", name=name).click()
            page.locator("[role=option]:visible", has_text=option).click()
            chosen(page, name, option)
        assert shown(page, "layer") == "2"
        page.go_back()
        chosen(page, "Capture", "a.h5")
    page.locator("#maps-map-title", has_text="Layer 2: attention map").wait_for()
    page.wait_for_load_state("networkidle")
    for name, option in (("Layer", "layer 2"), ("Prompt", "prompt 1"), ("Capture", "a.h5")):
        chosen(page, name, option)
    assert re.search(r"\?layer=2&prompt=1$", page.url)


def test_what_is_not_there_is_told_and_the_address_left_as_it_was(visit, address):
    asked = "layer=99&prompt=7&view=channel&channel=5000"
    page = visit(f"{address}/maps?{asked}")
    page.locator("#maps-map-title", has_text="Layer 0: channel 0").wait_for()
    chosen(page, "Layer", "layer 0")
    chosen(page, "Prompt", "prompt 0")
    page.wait_for_load_state("networkidle")
    assert page.url.endswith(asked)
    assert page.locator("#notes p").count() == 3
    assert [shown(page, name) for name in ("layer", "prompt", "channel")] == ["0", "0", "0"]
    page.locator("h2").first.click()
    page.keyboard.press("ArrowRight")
    page.locator("#maps-map-title", has_text="Layer 1: channel 0").wait_for()
    chosen(page, "Layer", "layer 1")


def test_another_capture_is_chosen_where_one_cannot_be_shown(visit, serve, copies, tmp_path):
    for name in ("a", "b"):
        shutil.copy(copies("copy-mamba1-mimetic", 17), tmp_path / f"{name}.h5")
    (tmp_path / "a.h5").write_bytes(b"not HDF5")
    page = visit(f"{serve(tmp_path)}/maps?layer=3")
    page.locator(".trouble", has_text="a.h5").wait_for()
    page.get_by_role("textbox", name="Capture").click()
    page.locator("[role=option]:visible", has_text="b.h5").click()
    page.locator("#maps-map-title", has_text="Layer 3: attention map").wait_for()
    chosen(page, "Layer", "layer 3")


def test_a_control_that_tells_its_value_late_does_not_take_the_reader_back(visit, address):
    """What comes from a control without the reader's hand is told of an address that they may have left."""
    page = visit(f"{address}/maps?layer=1&scale=rank")
    page.locator("#maps-map-title", has_text="Layer 1: attention map").wait_for()
    tell = "([id, value]) => dash_clientside.set_props(id, { value })"
    control = {"type": "address", "field": "scale"}
    page.evaluate("() => ssmlens.go({ layer: 2 })")
    page.evaluate(tell, [control, "symlog"])
    page.locator("#maps-map-title", has_text="Layer 2: attention map").wait_for()
    page.wait_for_timeout(300)
    assert page.url.endswith("layer=2&scale=rank")
    page.get_by_text("symlog", exact=True).click()
    page.get_by_text("linear", exact=True).click()
    page.wait_for_url(lambda url: "scale=" not in url)
