"""Figures of a layer that looks ahead show what lies above the diagonal, too."""

import base64
import zlib

import numpy as np
import pytest
from two_way_models import IDS, two_way_capture

import ssmlens
from ssmlens.plot.catalogue import FIGURES
from ssmlens.plot.lags import lag_profile_spec
from ssmlens.plot.matrix import shown_tile, small_tile
from ssmlens.plot.raster import block_reduce
from ssmlens.plot.selection import Selection
from ssmlens.plot.tiles import shrink
from ssmlens.plot.views import layer_views, plan
from ssmlens.scores.statistics import energy_by_lag


@pytest.fixture(scope="module")
def captured(typeseg, tmp_path_factory):
    path = two_way_capture(typeseg, tmp_path_factory.mktemp("two-way") / "run.h5")
    with ssmlens.open_capture(path) as captured:
        yield captured


@pytest.mark.parametrize("how", ["peak", "mean"])
@pytest.mark.parametrize(
    ("shape", "block", "first"), [((9, 9), 2, 0), ((300, 7), 3, -5), ((5, 8), 1, 2)]
)
def test_squares_of_a_matrix_that_is_no_triangle(how, shape, block, first):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    cells = shrink(values, block, how, first, causal=False)
    np.testing.assert_allclose(cells, block_reduce(values, block, how), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["map", "mask", "channel"])
def test_every_cell_is_drawn(captured, kind):
    layer = captured.layer(1)
    what = Selection(layer=layer, kind=kind, channel=7)
    wanted = layer.channel_map(7) if kind == "channel" else layer.whole_map(kind)
    np.testing.assert_array_equal(shown_tile(what).cells, wanted)
    assert np.isfinite(small_tile(what, 5).cells).all()


def test_lags_ahead_stand_at_the_left(captured):
    layer = captured.layer(1)
    mean = layer.attention_map()
    data = FIGURES["lags"].numbers(Selection(layer=layer))
    kept = 3 * len(mean) // 4 + 1
    assert data["lag"].values.tolist() == list(range(1 - kept, kept))
    np.testing.assert_allclose(
        data["energy"].sel(lag=-4), np.square(mean.diagonal(4)).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        data["energy"].sel(lag=4), np.square(mean.diagonal(-4)).mean(), rtol=1e-5
    )


def test_the_sharpest_lag_may_lie_ahead():
    mean = np.eye(12, k=5) + 0.5 * np.eye(12)
    spec = lag_profile_spec(energy_by_lag(mean), 2, energy_by_lag(mean.T))
    (line,) = spec["data"]
    assert line["x0"] == -11
    assert sum(line["y"]) == pytest.approx(1, abs=1e-3)
    (note,) = spec["layout"]["annotations"]
    assert (note["x"], note["text"]) == (-5, "5 ahead")


def test_the_report_carries_the_whole_square(captured):
    shown = plan(captured, captured.layers)
    for view in layer_views(captured, 1, shown):
        length = len(IDS[view["prompt"]])
        planes = zlib.decompress(base64.b64decode(view["values"]))
        assert view["square"]
        assert len(planes) == 2 * length**2
        assert ("ahead" in view) == (view["name"] == "attention_map")
