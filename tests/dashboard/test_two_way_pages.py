"""Every page on a capture of a layer that looks ahead (analyses/typeseg), without its family at hand."""

import numpy as np
import pytest
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.pages import compare, layers, maps, signals, weights
from ssmlens_dashboard.views.compare import apart, difference_tile, sides
from two_way_models import two_way_capture

from ssmlens.plot.tiles import LOOKS_AHEAD
from ssmlens.store import open_capture


@pytest.fixture(scope="module")
def path(typeseg, tmp_path_factory):
    return two_way_capture(typeseg, tmp_path_factory.mktemp("two-way") / "run.h5")


@pytest.fixture
def at(path, scene_at):
    return lambda page, search="": scene_at(path, search, page)


@pytest.fixture
def stored(path):
    with open_capture(path) as capture:
        yield capture.layer(1)


@pytest.mark.parametrize("kind", ["map", "mask", "channel"])
@pytest.mark.parametrize("scale", ["linear", "symlog", "rank"])
def test_a_map_is_drawn_with_what_lies_ahead(at, stored, kind, scale):
    scene = at("maps", f"layer=1&view={kind}&scale={scale}&query=4")
    spec, _, lags, row, *_ = maps.everything(scene)
    assert spec["layout"]["images"]
    assert lags["data"][0]["x0"] < 0
    wanted = (
        stored.channel_map(scene.selection.channel) if kind == "channel" else stored.whole_map(kind)
    )
    np.testing.assert_allclose(row["values"], wanted[4], rtol=1e-2, atol=1e-6)
    assert (maps.data(scene)["value"].values == wanted).all()


def test_values_above_the_diagonal_are_served(path, client_of, stored):
    client = client_of(path)
    values = client.get("/values?layer=1&view=map&zoom=1-5,9-20").get_data()
    got = np.frombuffer(values, "<f4")
    assert np.array_equal(got, stored.whole_map("map")[1:5, 9:20].ravel())
    assert got.any()
    assert client.get("/thumbnail.png?layer=1&view=map").status_code == 200


def test_the_other_pages_draw_it(path, at):
    assert layers.layout(at("layers"))
    assert signals.layout(at("signals", "layer=1"))
    assert weights.layout(at("weights", "layer=1"))
    (entry,) = Library([path]).entries("capture")
    scene = at("compare", f"layer=0&view=map&against={entry.id}.1.0")
    assert compare.layout(scene)
    one, other = (side.drawn for side in sides(scene))
    relative, together = apart(one, other)
    a, b = (what.layer.whole_map("map").astype(float) for what in (one, other))
    assert relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-5)
    assert together == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], rel=1e-4)
    cells = difference_tile(one, other, None).cells
    np.testing.assert_allclose(cells, a - b, rtol=1e-4, atol=1e-6)
    figure, *_ = compare.drawn(scene)
    assert {image.get("name") for image in figure["layout"]["images"]} == {LOOKS_AHEAD}
