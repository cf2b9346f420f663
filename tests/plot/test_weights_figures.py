import numpy as np
import pytest

from ssmlens.plot.scales import SCALES
from ssmlens.plot.weights_kernels import kernels_figure, tap_energy_figure
from ssmlens.plot.weights_products import (
    entries_figure,
    input_product_figure,
    state_product_figure,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("scale", SCALES)
def test_products_are_drawn_with_rows_read_and_columns_written(rng, scale):
    cells = rng.standard_normal((4, 4)).astype(np.float32)
    figure = input_product_figure(cells, 3, 11, scale=scale)
    assert list(figure.layout.xaxis.categoryarray) == ["0–2", "3–5", "6–8", "9–10"]
    assert figure.layout.yaxis.title.text == "input of W_C"
    assert "mean of 3×3" in figure.data[0].hovertemplate
    assert np.array_equal(figure.data[0].customdata, cells)
    assert "mean" not in input_product_figure(cells, 1, 4).data[0].hovertemplate
    states = state_product_figure(cells, scale=scale)
    assert states.layout.yaxis.title.text == "state of W_B"


def test_the_diagonal_stands_before_the_rest_within_its_spread():
    figure = entries_figure(np.linspace(-1, 1, 5), np.ones(4) / 4, np.ones(4) / 4, 0.25)
    assert [trace.name for trace in figure.data] == ["off the diagonal", "diagonal"]
    assert [shape.x0 for shape in figure.layout.shapes] == [-0.25, 0.25]
    alone = entries_figure(np.linspace(-1, 1, 5), np.ones(4) / 4, np.zeros(4), np.nan)
    assert len(alone.layout.shapes) == 0


def test_kernels_that_look_alike_are_side_by_side(rng):
    taps = np.array([[0.1, -2, 0], [1, 0, 0], [0, 0.5, 3], [3, 1, 0], [0, 1, 0.5]], np.float32)
    figure = kernels_figure({"x": taps, "B": taps[:2]})
    x, _, B = figure.data
    assert np.array_equal(x.customdata, taps[[3, 1, 4, 0, 2]])
    assert np.array_equal(B.customdata, taps[[1, 0]])
    assert (B.xaxis, figure.layout.images[1].xref) == ("x2", "x2")
    assert figure.layout.xaxis2.title.text == "B"
    wide = kernels_figure({"x": rng.standard_normal((4096, 4)).astype(np.float32)})
    assert wide.layout.images[0].sizey == 316  # 13 channels to a row


def test_energy_by_tap_sums_to_one():
    taps = np.array([[1.0, 2, 0], [1, 0, 0]])
    x, zero = tap_energy_figure({"x": taps, "B": 0 * taps}).data
    assert np.allclose(x.y, [2 / 6, 4 / 6, 0])
    assert np.array_equal(zero.y, [0, 0, 0])
