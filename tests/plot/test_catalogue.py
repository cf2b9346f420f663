"""Every figure by name, of every kind of layer: drawn, its numbers, or one line that says why not."""

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest

from ssmlens.errors import UsageError
from ssmlens.plot.catalogue import FIGURES, check
from ssmlens.plot.finish import DEFAULT
from ssmlens.plot.layer_figures import matrix_spec
from ssmlens.plot.of_layers import figure_of
from ssmlens.plot.selection import KINDS, Region, Selection
from ssmlens.plot.theme import DARK
from ssmlens.store import open_capture

MIXED = runpy.run_path(str(Path(__file__).parents[1] / "dashboard" / "mixed_layers.py"))
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
    kind = name if name in KINDS else "map"
    what = Selection(layer=capture.layer(layer), theme=DARK, prompt=1, kind=kind)
    if name not in THERE[layer]:
        with pytest.raises(UsageError, match=rf"[Ll]ayer {layer}\b"):
            figure_of(name, what, DEFAULT, (None, 300))
        return
    figure = figure_of(name, what, DEFAULT, (None, 300), model="<b>m</b>\n")
    width, own = FIGURES[name].size
    assert own != 300
    assert (figure.layout.width, figure.layout.height) == (width, 300)
    assert figure.layout.title.text.endswith(" · &lt;b&gt;m&lt;/b&gt;↵")
    assert f"ayer {layer}" in figure.layout.title.text
    assert figure.layout.paper_bgcolor == "#171b22"
    numbers = FIGURES[name].numbers(what)
    assert sum(array.size for array in numbers.data_vars.values()) > 0


def test_it_is_the_figure_of_the_page(capture):
    """The same picture and colours; alone it carries its numbers for the pointer as well."""
    what = Selection(
        layer=capture.layer(1),
        kind="channel",
        channel=2,
        region=Region((1, 6), (0, 5)),
        scale="symlog",
    )
    page, file = matrix_spec(what), matrix_spec(what, hover="tokens")
    assert page["layout"]["images"][0]["source"] == file["layout"]["images"][0]["source"]
    bar = file["data"][-1]["marker"]["colorbar"]
    assert list(bar["tickvals"]) == list(page["data"][-1]["marker"]["colorbar"]["tickvals"])
    numbers = FIGURES["channel"].numbers(what)["value"]
    assert np.array_equal(numbers, capture.layer(1).channel_map(2)[1:6, 0:5])
    query, key = np.ogrid[1:6, 0:5]
    carried = np.where(key <= query, numbers, np.nan)
    assert np.array_equal(file["data"][0]["z"], carried, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("map", {"prompt": 3}, r"prompt 3 is out of range: 0\.\.2"),
        ("channel", {"channel": 6, "kind": "channel"}, "layer 0 has 6 channels: no 6"),
        ("channel", {"channel": -1, "kind": "channel"}, "layer 0 has 6 channels: no -1"),
        ("kernels", {"group": 2}, "layer 0 has 2 groups: no 2"),
        ("map", {"region": Region((0, 5), (0, 6)), "prompt": 1}, "ends after the 5 tokens"),
        ("erase", {"kind": "erase"}, "layer 0 has no erase; it has map, mask, channel"),
    ],
)
def test_what_is_not_there_is_an_error(capture, name, changes, told):
    what = dataclasses.replace(Selection(layer=capture.layer(0)), **changes)
    with pytest.raises(UsageError, match=told):
        check(name, what)
