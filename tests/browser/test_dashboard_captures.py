"""Captures that are longer than a whole map may be, that grow while they are looked at, or go."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from oracles import maps_by_definition

import ssmlens
from ssmlens.names import LARGEST_WHOLE_MAP

SYNTHETIC = Path(__file__).parents[1] / "dashboard" / "synthetic.py"
write_capture = runpy.run_path(str(SYNTHETIC))["write_capture"]
TOKENS = LARGEST_WHOLE_MAP + 1
BLOCK = 16  # tokens, so that there are at most 1024 blocks
PIXELS = """async () => {
  const picture = new Image();
  picture.src = document.querySelector('#maps-map .js-plotly-plot').layout.images[0].source;
  await picture.decode();
  return [picture.naturalWidth, picture.naturalHeight];
}"""
WRITER = """
import runpy, sys
from ssmlens.store import CaptureWriter
write = CaptureWriter.write
def write_and_wait(self, index, *rest):
    write(self, index, *rest)
    print("wrote", index, flush=True)
    sys.stdin.readline()
CaptureWriter.write = write_and_wait
runpy.run_path(sys.argv[1])["write_capture"](sys.argv[2], layers=2, tokens=20)
print("finished", flush=True)
"""


@pytest.fixture(scope="module")
def long(tiny_model, tmp_path_factory):
    """A capture of a small model under a prompt of one token more than a whole map may have."""
    path = tmp_path_factory.mktemp("long") / "long.h5"
    ids = [(7 * i * i + i) % 32 for i in range(TOKENS)]
    ssmlens.capture(tiny_model("ssmlens Mamba"), [ids], path, layers=[0])
    return path


def titled(page, title):
    page.locator("#maps-map-title", has_text=re.compile(f"^{title}$")).wait_for()
    page.wait_for_selector("#maps-map .main-svg image", state="attached")


def read_at(page, across, down):
    """What the pointer is told at a place of the map, in shares of its sides: query, key, value."""
    box = page.locator("#maps-map .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    page.locator("#hover", has_text="value").wait_for()
    query, key, value = (line.split() for line in page.locator("#hover").inner_text().splitlines())
    return int(query[1]), int(key[1]), float(value[1])


def test_a_long_prompt_is_blocks_of_tokens_and_entries_where_it_is_zoomed(visit, serve, long):
    sizes = []
    page = visit("about:blank")
    page.on("response", lambda r: sizes.append(len(r.body())) if "update-component" in r.url else 0)
    page.goto(f"{serve(long)}/maps?layer=0")
    titled(page, "Layer 0: attention map")
    blocks = -(-TOKENS // BLOCK)
    assert page.evaluate(PIXELS) == [blocks, blocks]
    page.locator("#maps-row-title", has_text=f"row of query {TOKENS - 1}").wait_for()
    page.locator("#maps-lags .scatterlayer .trace").first.wait_for()
    page.evaluate("() => ssmlens.go({ zoom: '120-220,60-160', query: 150 })")
    page.locator("#maps-row-title", has_text="row of query 150").wait_for()
    page.wait_for_function(
        "() => document.querySelector('#maps-map .js-plotly-plot')._fullLayout.yaxis.range[0] === 219.5"
    )
    assert page.evaluate(PIXELS) == [700, 700], "seven pixels a token"
    with ssmlens.open_capture(long) as capture:
        operands = (capture.layer(0).read(n, 0) for n in ("delta", "A", "B", "C"))
        delta, A, B, C = (o if n == 1 else o[:220] for n, o in enumerate(operands))
    maps, mask = maps_by_definition(delta=delta, A=A, B=B, C=C)
    query, key, value = read_at(page, 0.305, 0.505)
    assert (query, key) == (170, 90)
    assert np.isclose(value, maps.mean(0)[170, 90], rtol=6e-3)
    for view, expected in (("mask", mask), ("channel", maps[0])):
        page.locator(".toolbar").get_by_text(view, exact=True).click()
        page.locator("#maps-map-title", has_text=view).wait_for()
        page.mouse.move(2, 2)
        page.locator("#hover").wait_for(state="hidden")
        assert np.isclose(read_at(page, 0.305, 0.505)[2], expected[170, 90], rtol=6e-3)
    assert max(sizes) < 3_000_000


def test_a_growing_capture_is_a_message_that_goes_on_to_its_layers_by_itself(
    visit, serve, tmp_path
):
    path = tmp_path / "run.h5"
    words = [sys.executable, "-c", WRITER, str(SYNTHETIC), str(path)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "wrote 0\n"
        page = visit(f"{serve(tmp_path)}/maps?layer=1")
        page.locator(".trouble", has_text="run.h5 is not finished: 1 of its layers").wait_for()
        capture, layer = (page.get_by_role("textbox", name=name) for name in ("Capture", "Layer"))
        capture.click()
        page.locator("[role=option]:visible", has_text="run.h5 (growing)").click()
        page.wait_for_url(re.compile("capture=[0-9a-f]{10}"))
        asked = page.url
        assert str(tmp_path) not in page.content()
        writer.stdin.write("\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "wrote 1\n"
        page.locator(".trouble", has_text="run.h5 is not finished: 2 of its layers").wait_for()
        out, _ = writer.communicate("\n\n", timeout=60)
    assert out.endswith("finished\n")
    titled(page, "Layer 1: attention map")
    page.wait_for_function("one => one.value === 'layer 1'", arg=layer.element_handle())
    page.wait_for_function("one => one.value === 'run.h5'", arg=capture.element_handle())
    assert page.url == asked, "the address that named it while it grew"
    page.wait_for_load_state("networkidle")
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.evaluate("() => ssmlens.go({ layer: 0 })")
    titled(page, "Layer 0: attention map")
    page.wait_for_timeout(3000)
    assert len([url for url in requests if "update-component" in url]) == 2, (
        "nothing ticks any more"
    )


@pytest.mark.parametrize("name", ["layers", "signals", "weights", "compare"])
def test_what_goes_while_it_is_open_is_a_message_on_every_page(visit, serve, tmp_path, name):
    path = write_capture(tmp_path / "run.h5", layers=2, tokens=20)
    page = visit(f"{serve(tmp_path)}/{name}?layer=0")
    page.wait_for_selector("main .main-svg image", state="attached")
    other = write_capture(tmp_path / "newer.h5", layers=2, tokens=20)
    with h5py.File(other, "r+") as file:
        file.attrs["schema_version"] = 99
        file.attrs["needs"] = np.bytes_(b"more-than-this")
    other.rename(path)
    page.keyboard.press("ArrowRight")
    page.locator(".trouble", has_text="99").wait_for()
    path.unlink()
    page.get_by_text("try again").click()
    page.locator(".trouble", has_text="there is no capture here yet").wait_for()
    assert str(tmp_path) not in page.content()
    assert "Traceback" not in page.content()


def test_a_place_beside_that_goes_is_told_beside_it_and_the_first_stays(visit, serve, tmp_path):
    for seed, word in enumerate(("default", "mimetic")):
        write_capture(tmp_path / f"copy-{word}.h5", layers=2, tokens=20, seed=seed)
    page = visit(f"{serve(tmp_path)}/compare?layer=0")
    page.locator("#compare-maps").get_by_text("A − B").wait_for()
    page.keyboard.press("ArrowRight")  # from here on the address names both
    page.locator("#compare-maps").get_by_text("B  copy-mimetic, layer 1").wait_for()
    (tmp_path / "copy-mimetic.h5").unlink()
    page.keyboard.press("ArrowLeft")
    page.locator("#compare-notes-1", has_text="no longer").wait_for()
    page.locator("#compare-maps").get_by_text("cannot be shown").wait_for()
    assert page.locator("#compare-maps .main-svg image").count() == 1
