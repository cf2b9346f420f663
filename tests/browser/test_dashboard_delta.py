"""Delta-rule hybrids in a real browser: what they erase, how they write and forget, queries against keys."""

import re

import numpy as np
import pytest

from ssmlens.store import open_capture

FAMILIES = ["Qwen3_5GatedDeltaNet", "OlmoHybridGatedDeltaNet", "KimiLinearDeltaAttention"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, family_capture):
    """The file of a small model: delta rule, softmax attention, delta rule."""
    return family_capture(f"transformers {request.param}")


@pytest.fixture(scope="module")
def address(family, serve):
    return serve(family)


@pytest.fixture
def stored(family):
    with open_capture(family) as capture:
        yield capture


def test_from_a_block_to_what_it_erases_under_the_pointer(visit, point_at, address, stored):
    page = visit(f"{address}/layers")
    page.locator("#layers-blocks .block").nth(2).wait_for()
    kinds = page.locator("#layers-blocks .block-head .muted").all_inner_texts()
    assert [kind.strip() for kind in kinds] == ["delta rule", "attention", "delta rule"]
    page.locator("[row-id='2'] [col-id=kind]", has_text="delta rule").wait_for()
    pictures = page.locator("#layers-blocks .block").nth(2).locator(".pictures a")
    assert pictures.count() == 3
    pictures.nth(2).click()
    page.wait_for_url(re.compile("/maps.*view=erase"))
    page.locator("#maps-map-title", has_text="Layer 2: erase map").wait_for()
    page.wait_for_selector("#maps-map .imagelayer image", state="attached")
    erase = stored.layer(2).whole_map("erase")
    query, key = 9, 2
    point_at(page, "maps-map", query, key, erase.shape)
    page.locator("#hover", has_text="value").wait_for()
    lines = page.locator("#hover").inner_text().splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["query", "9"], ["key", "2"]]
    assert np.isclose(float(lines[2].split()[1].replace("−", "-")), erase[query, key], rtol=6e-3)
    page.keyboard.press("ArrowLeft")
    page.get_by_text("layer 1 has no erase").first.wait_for()
    page.locator(".toolbar").get_by_text("erase", exact=True).wait_for(state="detached")


def test_signals_are_its_strengths_decays_and_half_lives(visit, point_at, address, stored):
    page = visit(f"{address}/signals?layer=2")
    page.locator("#signals-status", has_text=re.compile("^layer 2: .*mean β")).wait_for()
    titles = [page.locator(f"#signals-{n}-title").inner_text() for n in ("steps", "norms", "rates")]
    assert titles == ["β by token and head", "Decay α by token", "Rates of decay −log α"]
    beta = stored.layer(2).read("beta", 0)
    point_at(page, "signals-steps", 1, 4, beta.T.shape)
    page.locator("#signals-steps .hoverlayer", has_text=re.compile(r"token\s+4 ")).wait_for()
    text = page.locator("#signals-steps .hoverlayer").text_content()
    assert float(re.search(r"β\s+([\d.]+)", text)[1]) == pytest.approx(beta[4, 1], rel=6e-3)
    page.get_by_text("by mean β", exact=True).click()
    page.locator("#signals-steps .ytitle", has_text="heads by mean β").wait_for()
    page.locator("h2").first.click()
    page.keyboard.press("ArrowLeft")
    page.locator("#signals-status", has_text="Layer 1 is softmax attention").wait_for()


def test_weights_are_its_queries_against_its_keys(visit, address):
    page = visit(f"{address}/weights?layer=0")
    page.locator("#weights-status", has_text="layer 0: ").wait_for()
    assert page.locator("#weights-inputs-title").inner_text() == "W_qᵀ W_k"
    for figure in ("inputs", "states", "kernels", "beta"):
        page.wait_for_selector(f"#weights-{figure} .main-svg image", state="attached")
    parts = page.locator("#weights-taps .legendtext").all_text_contents()
    assert parts == ["v", "k", "q"]
    assert "—" not in " ".join(page.locator(".number").all_inner_texts())
