import base64
import struct
import zlib

import numpy as np
import plotly.graph_objects as go
import pytest

from ssmlens.plot.cells import (
    HOVERED,
    labelled_axis,
    nothing,
    number_ticks,
    paint,
    runs,
    shrink_means,
)


def picture(figure, place=0):
    """Palette indices of a layout image, from its PNG."""
    data = base64.b64decode(figure.layout.images[place].source.partition(",")[2])
    at, packed, shape = 8, b"", None
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            shape = struct.unpack(">II", body[:8])
        packed += body if kind == b"IDAT" else b""
        at += 12 + size
    width, height = shape
    return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, width + 1)[:, 1:]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (5, 1), (7, 20), (1, 4)])
def test_means_of_rectangles_the_last_ones_smaller(rows, columns):
    values = np.random.default_rng(0).standard_normal((7, 11)).astype(np.float32)
    found = shrink_means(values, rows, columns)
    expected = [
        [
            values[i : i + rows, j : j + columns].astype(np.float64).mean()
            for j in range(0, 11, columns)
        ]
        for i in range(0, 7, rows)
    ]
    assert np.allclose(found, expected, atol=1e-6)


def test_means_keep_holes():
    values = np.ones((4, 4), np.float32)
    values[3, 0] = np.nan
    assert np.array_equal(np.isnan(shrink_means(values, 2, 2)), [[False, False], [True, False]])


@pytest.mark.parametrize(
    ("shape", "exact"), [((3, 5), True), ((1, 1), True), ((300, 200), False), ((1000, 3), True)]
)
def test_cells_are_pixels_in_their_order_and_values_under_the_pointer(shape, exact):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1
    values[0, 0] = np.nan
    figure = go.Figure()
    paint(figure, values, hover="%{customdata}", signed=False, limit=float(values.size))
    shown = picture(figure)
    tall, wide = (n // m for n, m in zip(shown.shape, shape, strict=True))
    assert shown.shape == (tall * shape[0], wide * shape[1])
    assert shown[0, 0] == 255  # nothing
    cells = shown[::tall, ::wide].astype(int)
    assert (np.diff(cells.ravel()[1:]) >= 0).all()
    image = figure.layout.images[0]
    assert (image.x, image.y, image.sizex, image.sizey) == (-0.5, -0.5, shape[1], shape[0])
    hover = figure.data[0]
    assert hover.customdata.size <= HOVERED + 1000
    assert exact == np.array_equal(hover.customdata, values, equal_nan=True)
    places = hover.y0 + hover.dy * np.arange(hover.z.shape[0])
    assert places[0] >= 0
    assert places[-1] <= shape[0] + hover.dy / 2


def test_a_cell_that_stands_for_several_says_so():
    figure = go.Figure()
    paint(figure, np.ones((400, 400), np.float32), hover="v", signed=True)
    assert "mean of 3×3 cells" in figure.data[0].hovertemplate


def test_values_that_are_not_finite_at_all():
    figure = go.Figure()
    paint(figure, np.full((2, 2), np.nan, np.float32), hover="v", signed=True, scale="symlog")
    assert (picture(figure) == 255).all()


@pytest.mark.parametrize(
    ("first", "end", "several"), [(0, 1, 1), (0, 9, 1), (17, 23, 1), (0, 2048, 3), (5, 16384, 8)]
)
def test_ticks_stand_at_round_numbers_in_the_cells_that_hold_them(first, end, several):
    ticks = number_ticks(first, end, several)
    labels = runs(first, end, several)
    assert len(ticks) <= 13
    for at, text in ticks:
        low, _, high = labels[at].partition("–")
        assert int(low) <= int(text) <= int(high or low)


def test_labels_of_an_axis_that_are_numbers_in_another_order():
    axis = labelled_axis(["3", "1", "0", "2"], "head", [(2, "0")])
    assert axis["tickvals"] == ["0"]  # a 2 would be taken for the label at its end
    assert axis["categoryarray"] == ["3", "1", "0", "2"]
    assert axis["range"] == [-0.5, 3.5]
    assert labelled_axis(["a"], "", [], down=True)["range"] == [0.5, -0.5]


def test_runs():
    assert runs(0, 5, 2) == ["0–1", "2–3", "4"]
    assert runs(3, 4, 7) == ["3"]


def test_a_reason_is_text():
    assert nothing("<b>x</b>").layout.annotations[0].text == "&lt;b&gt;x&lt;/b&gt;"
