"""LFM2 and RecurrentGemma in a real browser: layers without W_B and W_C, the first without a decay, too."""

import re

import pytest

from ssmlens.store import open_capture

# By family: what its blocks are, the pictures of a block, what the page of signals says.
FAMILIES = {
    "Lfm2ShortConv": ("convolution", ["map"], "neither a selective scan nor a delta rule"),
    "RecurrentGemmaRecurrentBlock": ("recurrence", ["map", "mask"], "layer 2: .*mean Δ"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def file(family, family_capture):
    return family_capture(f"transformers {family}")


@pytest.fixture(scope="module")
def address(file, serve):
    return serve(file)


def test_from_the_blocks_to_a_map_and_its_numbers(visit, address, family, file):
    kind, views, _ = FAMILIES[family]
    page = visit(f"{address}/layers")
    page.locator("#layers-blocks .block").nth(2).wait_for()
    kinds = page.locator("#layers-blocks .block-head .muted").all_inner_texts()
    assert [text.strip() for text in kinds] == [kind, "attention", kind]
    page.locator("[row-id='2'] [col-id=kind]", has_text=kind).wait_for()
    pictures = page.locator("#layers-blocks .block").nth(2).locator(".pictures a")
    assert pictures.count() == len(views)
    pictures.last.click()
    page.wait_for_url(re.compile("/maps"))
    page.locator("#maps-map-title", has_text="Layer 2: attention").wait_for()
    page.wait_for_selector("#maps-map .imagelayer image", state="attached")
    with open_capture(file) as capture:
        drawn = capture.layer(2).whole_map(views[-1])
    page.locator("#maps-map .nsewdrag").first.hover()
    page.locator("#hover", has_text="value").wait_for()
    query, key, value = (line.split() for line in page.locator("#hover").inner_text().splitlines())
    wanted = drawn[int(query[1]), int(key[1])]
    assert float(value[1].replace("−", "-")) == pytest.approx(wanted, rel=6e-3, abs=1e-4)


def test_signals_are_drawn_or_say_why_not_and_weights_say_what_is_missing(visit, address, family):
    page = visit(f"{address}/signals?layer=2")
    page.locator("#signals-status", has_text=re.compile(FAMILIES[family][2])).wait_for()
    page = visit(f"{address}/weights?layer=2")
    page.locator("#weights-status", has_text="stores no W_B and W_C").wait_for()
