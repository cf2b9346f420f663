import numpy as np
import plotly.graph_objects as go
import pytest

from ssmlens.plot.raster import block_reduce, causal
from ssmlens.plot.tiles import Tile, shrink, tile, tile_spec


def a_map(tokens, seed=0):
    return np.tril(np.random.default_rng(seed).standard_normal((tokens, tokens))).astype(np.float32)


@pytest.mark.parametrize("how", ["peak", "mean"])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
@pytest.mark.parametrize(
    ("queries", "keys"),
    [((0, 41), (0, 41)), ((5, 30), (0, 17)), ((20, 41), (30, 41)), ((0, 1), (0, 1))],
)
def test_squares_are_those_of_the_slow_and_plain_way(how, block, queries, keys):
    values = a_map(41)[slice(*queries), slice(*keys)]
    first = queries[0] - keys[0]
    expected = block_reduce(causal(values, first), block, how)
    cells = shrink(values, block, how, first)
    if how == "peak":  # equal magnitudes aside, which numbers drawn at random do not have
        assert np.array_equal(cells, expected, equal_nan=True)
    else:
        assert np.allclose(cells, expected, atol=1e-6, equal_nan=True)


def test_what_is_not_finite_stays_visible():
    values = a_map(9)
    values[6, 2] = np.nan
    assert np.isnan(shrink(values, 3, "peak")[2, 0])
    assert np.isnan(shrink(values, 3, "mean")[2, 0])


def test_a_tile_has_at_most_as_many_cells_as_asked_for():
    shown = tile(a_map(100), (0, 100), (0, 100), "peak", side=30)
    assert shown.block == 4
    assert shown.cells.shape == (25, 25)
    assert tile(a_map(30), (0, 30), (0, 30), "peak", side=30).block == 1


def test_the_figure_stands_where_the_tokens_are():
    words = [f"<b>{i}</b>" for i in range(100)]
    shown = tile(a_map(100)[40:60, 10:70], (40, 60), (10, 70), "peak", side=30)
    figure = go.Figure(tile_spec(shown, words, query=44))
    image = figure.layout.images[0]
    assert (image.x, image.y, image.sizex, image.sizey) == (9.5, 39.5, 60, 20)
    assert tuple(figure.layout.xaxis.range) == (9.5, 69.5)
    assert tuple(figure.layout.yaxis.range) == (59.5, 39.5)
    assert figure.layout.xaxis.tickvals[0] == 10
    assert figure.layout.xaxis.ticktext[0] == "10 &lt;b&gt;10&lt;/b&gt;"
    assert len(figure.layout.xaxis.tickvals) <= 36
    assert figure.layout.shapes[0].y0 == 44


def test_a_query_out_of_sight_is_not_marked():
    figure = go.Figure(tile_spec(Tile(a_map(5), (0, 5), (0, 5), 1), list("abcde"), query=7))
    assert not figure.layout.shapes
