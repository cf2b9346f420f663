"""Runs in a real browser: curves, controls in the address, and a run that grows before the reader's eyes."""

import json
import re
import runpy
from pathlib import Path

import pytest

written = runpy.run_path(str(Path(__file__).parents[1] / "dashboard" / "synthetic_runs.py"))
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
    page.get_by_text("characters right", exact=True).first.click()
    page.wait_for_url("**/runs?measure=char")
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
    with page.expect_download() as file:
        page.get_by_text("CSV").click()
    head = Path(file.value.path()).read_text().splitlines()[0]
    assert {"run", "length", "arm", "char"} <= set(head.split(","))


def test_a_run_grows_and_the_page_follows_until_it_is_done(visit, serve, tmp_path):
    page = visit(f"{serve(tmp_path)}/runs", scheme="dark")
    page.locator("#runs-none").wait_for()
    assert "none found" in page.locator("#runs-none").inner_text()

    folder = written["write_run"](tmp_path / "live" / "one", state="running")
    page.goto(page.url)
    page.wait_for_function(f"() => ({LAST_STEP})() === 200")
    page.get_by_role("textbox", name="Length").click()
    page.locator("[role=option]:visible").first.wait_for()
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 777, "split": "train", "loss": 0.5}) + "\n")
    page.wait_for_function(f"() => ({LAST_STEP})() === 777")
    assert page.locator("[role=option]:visible").count() == 3, "what the reader has open stays open"
