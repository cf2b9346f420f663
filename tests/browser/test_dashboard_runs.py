"""Runs in a real browser: curves, controls in the address, and a run that grows before the reader's eyes."""

import json
import re
import runpy
from pathlib import Path

import pytest

DASHBOARD = Path(__file__).parents[1] / "dashboard"
write_capture = runpy.run_path(str(DASHBOARD / "synthetic.py"))["write_capture"]
written = runpy.run_path(str(DASHBOARD / "synthetic_runs.py"))
LAST_STEP = """() => {
  const plot = document.querySelector('#runs-loss .js-plotly-plot');
  const line = plot && plot.data && plot.data.at(-1);
  return line ? plot.calcdata.at(-1).at(-1).x : null;
}"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    written["write_transplants"](folder / "transplants", layers=3)
    written["write_sweep"](folder / "sweep")
    return folder


def test_curves_and_controls_are_one_with_the_address(visit, serve, runs):
    page = visit(f"{serve(runs)}/runs")
    page.locator("#runs-rates .scatterlayer .trace").first.wait_for()
    assert page.locator("#runs-none").is_hidden()
    page.get_by_text("strings right", exact=True).first.click()
    page.wait_for_url("**/runs?measure=string")
    page.get_by_role("textbox", name="Length").click()
    page.locator("[role=option]:visible", has_text="length 100").click()
    page.wait_for_url("**length=100**")
    page.get_by_text("Accuracy at length 100").wait_for()
    page.get_by_role("textbox", name="Rate").click()
    page.locator("[role=option]:visible", has_text="learning rate 0.003").click()
    page.wait_for_url("**rate=0.003**")
    page.get_by_role("link", name="transplants").click()
    page.locator("#runs-transplants .scatterlayer .point").first.wait_for()
    page.wait_for_url(re.compile(r"runs=[0-9a-f]{10}"))
    got = {}
    for form in ("SVG", "PNG", "CSV", "netCDF"):
        with page.expect_download() as file:
            page.get_by_text(form, exact=True).first.click()
        got[form] = Path(file.value.path()).read_bytes()
    assert {"run", "length", "arm", "char"} <= set(got["CSV"].decode().splitlines()[0].split(","))
    for form, start in (("SVG", b"<svg"), ("PNG", b"\x89PNG"), ("netCDF", b"\x89HDF")):
        assert got[form].startswith(start), form


def test_a_run_grows_and_the_page_follows_until_it_is_done(visit, serve, tmp_path):
    page = visit(f"{serve(tmp_path)}/runs", scheme="dark")
    page.locator("#runs-none").wait_for()
    assert "none found" in page.locator("#runs-none").inner_text()

    folder = written["write_run"](tmp_path / "live" / "one", state="running")
    page.evaluate("() => dash_clientside.set_props('runs-tick', { n_intervals: 1e6 })")
    page.wait_for_function(f"() => ({LAST_STEP})() === 200")
    page.get_by_role("textbox", name="Length").click()
    page.locator("[role=option]:visible").first.wait_for()
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 777, "split": "train", "loss": 0.5}) + "\n")
    page.wait_for_function(f"() => ({LAST_STEP})() === 777")
    assert page.locator("[role=option]:visible").count() == 3, "what the reader has open stays open"


def test_a_run_leads_to_its_captures_and_they_are_stepped_through(visit, serve, tmp_path):
    write_capture(tmp_path / "another.h5", layers=2, tokens=30)
    folder = written["write_run"](tmp_path / "sweep" / "mimetic-0", arm="mimetic")
    (folder / "captures").mkdir()
    for step in (0, 20, 100):
        write_capture(
            folder / "captures" / f"step-{step:06}.h5", layers=2, tokens=30, seed=step + 1
        )
    page = visit(f"{serve(tmp_path)}/runs")
    page.locator("#runs-table [col-id='maps']", has_text="3 captures").click()
    page.wait_for_url("**/maps?capture=**")
    named = page.get_by_role("textbox", name="Capture")

    def shown(name):
        page.wait_for_function(
            "([name, input]) => input.value === name && !document.querySelector('.trouble')",
            arg=[name, named.element_handle()],
        )
        page.wait_for_selector("#maps-map .main-svg image", state="attached")

    shown("mimetic-0/step-000000.h5")
    page.keyboard.press("ArrowRight")
    page.evaluate("() => ssmlens.go({ zoom: '3-13,1-11' })")
    page.keyboard.press("n")
    shown("mimetic-0/step-000020.h5")
    page.get_by_role("button", name="Next capture (n)").click()
    shown("mimetic-0/step-000100.h5")
    page.keyboard.press("n")  # there is none further
    page.keyboard.press("p")
    shown("mimetic-0/step-000020.h5")
    assert "layer=1" in page.url
    assert "zoom=3-13" in page.url
    named.click()
    group = page.locator(".mantine-Select-group:visible", has_text="mimetic-0")
    assert group.get_by_role("option").count() == 3
    page.get_by_role("option", name="another.h5").click()
    shown("another.h5")
    page.get_by_role("button", name="Next capture (n)").wait_for(state="hidden")
    page.get_by_role("link", name="Runs").click()
    page.locator("#runs-table [col-id='change']", has_text="first and last").click()
    page.wait_for_url("**/compare?**against=**")
    page.wait_for_selector("#compare-maps .main-svg image", state="attached")
    assert named.first.input_value() == "mimetic-0/step-000000.h5"
    beside = page.get_by_role("textbox", name="Capture").nth(1)
    assert beside.input_value() == "mimetic-0/step-000100.h5"
