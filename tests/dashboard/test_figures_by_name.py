"""Every figure by name, of every kind of layer: drawn, its numbers, or one line that says why not."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from ssmlens_dashboard.address import Address, Zoom
from ssmlens_dashboard.figures import FIGURES, drawn, still
from ssmlens_dashboard.pages import maps

from ssmlens.errors import UsageError
from ssmlens.store import open_capture

MIXED = runpy.run_path(str(Path(__file__).with_name("mixed_layers.py")))
MAPS = {"map", "mask", "channel", "lags"}
SIGNALS = {"steps", "norms", "half-lives", "rates"}
KERNELS = {"kernels", "taps"}
WEIGHTS = {"input-product", "state-product", "input-entries", "state-entries"}
# Kind of layer → its figures.
THERE = {
    0: MAPS | SIGNALS | WEIGHTS | KERNELS,
    1: MAPS | SIGNALS | WEIGHTS | KERNELS,
    2: MAPS | SIGNALS | WEIGHTS,
    3: {"map", "lags"},
    5: MAPS | SIGNALS,
}


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = MIXED["write_mixed"](
        tmp_path_factory.mktemp("mixed") / "mixed.h5", {"model": "<b>m</b>\n"}
    )
    with open_capture(path) as opened:
        yield opened


@pytest.mark.parametrize("layer", THERE)
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_and_its_numbers_or_one_line(capture, layer, name):
    def both():
        scene = still(capture, name, Address(layer=layer, theme="dark", prompt=1))
        return drawn(scene, name, (None, 300)), FIGURES[name].data(scene)

    if name not in THERE[layer]:
        with pytest.raises(UsageError, match=rf"[Ll]ayer {layer}\b"):
            both()
        return
    figure, data = both()
    width, own = FIGURES[name].size
    assert own != 300
    assert (figure.layout.width, figure.layout.height) == (width, 300)
    assert figure.layout.title.text.endswith(" · &lt;b&gt;m&lt;/b&gt;↵")
    assert f"ayer {layer}" in figure.layout.title.text
    assert figure.layout.paper_bgcolor == "#171b22"
    assert sum(array.size for array in data.data_vars.values()) > 0


def test_it_is_the_figure_of_the_page(capture, tmp_path_factory, scene_at):
    scene = scene_at(
        capture.path, "layer=1&view=channel&channel=2&zoom=1-6,0-5&scale=symlog", "maps"
    )
    zoom = Zoom((1, 6), (0, 5))
    mine = still(capture, "channel", Address(layer=1, channel=2, zoom=zoom, scale="symlog"))
    page, file = maps.map_figure(scene), FIGURES["channel"].draw(mine)
    assert page == file
    assert np.array_equal(FIGURES["channel"].data(mine)["value"], maps.data(scene)["value"])


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("map", {"layer": 9}, "has no layer 9; it has 0-5"),
        ("map", {"prompt": 3}, r"prompt 3 is out of range: 0\.\.2"),
        ("channel", {"channel": 6}, "layer 0 has 6 channels: no 6"),
        ("kernels", {"group": 2}, "layer 0 has 2 groups: no 2"),
        ("map", {"zoom": Zoom((0, 5), (0, 6)), "prompt": 1}, "ends after the 5 tokens"),
        ("steps", {"layer": 3}, "softmax attention"),
    ],
)
def test_what_is_not_there_is_an_error(capture, name, changes, told):
    with pytest.raises(UsageError, match=told):
        still(capture, name, Address(layer=0).but(**changes))
