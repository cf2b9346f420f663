"""Attribution in a real browser: the figure over the text, another file, the way there when there is none."""

from pathlib import Path

import numpy as np
import pytest

import ssmlens
from ssmlens.store.attribution_file import attribution_json

MODEL, PROMPT = "copy-mamba2-mimetic", "abcdefgh|abc"
BARS = """() => {
  const plot = document.querySelector('#attribution-terms .js-plotly-plot');
  return plot.calcdata[0].map(bar => bar.s);
}"""


@pytest.fixture(scope="module")
def found():
    model = ssmlens.load_model(MODEL)
    return {name: ssmlens.attribute(model, PROMPT[:end]) for name, end in (("a", 12), ("b", 11))}


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attributions")
    for name, data in found.items():
        (folder / f"{name}.json").write_bytes(attribution_json(data, MODEL, PROMPT))
    return folder


def over_text(data):
    """What each token adds in all, from the DataArrays."""
    whole = data["by_source"].values.sum(0)
    alone = ~np.isin(data["term"], data["mixer"]) & (data["kind"].values != "bias")
    whole[data.attrs["position"]] += data["value"].values[alone].sum()
    return whole


def test_bars_over_the_text_and_another_file(visit, serve, folder, found):
    page = visit(f"{serve(folder)}/attribution")
    page.locator("#attribution-terms .barlayer .point").first.wait_for()
    assert page.locator("#attribution-none").is_hidden()
    title = page.locator("#attribution-terms-title")
    assert title.inner_text().startswith("Logit of 'd' after token 11")
    np.testing.assert_allclose(page.evaluate(BARS), over_text(found["a"]), rtol=1e-4, atol=1e-5)
    labels = page.locator("#attribution-terms .x2tick text").all_text_contents()
    assert "3 d" in labels
    assert page.url.endswith("/attribution")
    page.get_by_role("textbox", name="Attribution").click()
    page.locator("[role=option]:visible", has_text="b.json").click()
    page.wait_for_url("**/attribution?attribution=**")
    title.filter(has_text="Logit of 'c' after token 10").wait_for()
    page.wait_for_function(f"() => ({BARS})().length === 11")
    np.testing.assert_allclose(page.evaluate(BARS), over_text(found["b"]), rtol=1e-4, atol=1e-5)
    page.get_by_text("symlog", exact=True).first.click()
    page.wait_for_url("**scale=symlog**")
    with page.expect_download() as file:
        page.get_by_text("SVG", exact=True).first.click()
    assert Path(file.value.path()).read_bytes().startswith(b"<svg")


def test_where_there_is_none_the_page_says_how_to_make_one(visit, serve, tmp_path):
    page = visit(f"{serve(tmp_path)}/attribution", scheme="dark")
    page.locator("#attribution-none").wait_for()
    assert "ssmlens attribute --model" in page.locator("#attribution-none").inner_text()
    assert page.locator("#attribution-all").is_hidden()
