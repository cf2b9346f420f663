import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from png_pixels import decode_png

from ssmlens.plot.raster import block_reduce, causal, data_uri, palette_png
from ssmlens.plot.theme import SIGNED, UNIT


def test_causal_leaves_keys_after_their_query_empty():
    held = causal(np.ones((3, 3)))
    assert np.array_equal(np.isnan(held), [[0, 1, 1], [0, 0, 1], [0, 0, 0]])
    part = causal(np.ones((2, 3)), first=1)  # queries 5, 6 and keys 4, 5, 6
    assert np.array_equal(np.isnan(part), [[0, 0, 1], [0, 0, 0]])


@settings(max_examples=40)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 5), st.integers(0, 99))
def test_block_reduce_by_loops(rows, columns, block, seed):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((rows, columns)) < 0.3, np.nan, rng.normal(size=(rows, columns)))
    mean, peak = block_reduce(values, block, "mean"), block_reduce(values, block, "peak")
    assert mean.shape == peak.shape == (-(-rows // block), -(-columns // block))
    for r, c in np.ndindex(mean.shape):
        cells = values[r * block : (r + 1) * block, c * block : (c + 1) * block]
        known = [v for v in cells.ravel() if not np.isnan(v)]
        if known:
            assert mean[r, c] == pytest.approx(sum(known) / len(known))
            assert peak[r, c] == max(known, key=abs)
        else:
            assert np.isnan(mean[r, c])
            assert np.isnan(peak[r, c])


def test_a_thin_diagonal_survives_as_peaks():
    tokens = 101
    values = np.eye(tokens, k=-40) * -3.0
    peaks = block_reduce(values, 10, "peak")
    assert all((peaks[row] == -3.0).any() for row in range(5, len(peaks)))


def test_colours_are_transparent_at_zero_and_full_at_the_ends():
    pixels = decode_png(
        palette_png(np.array([[-1.0, 0.0, 1.0, np.nan, 7.0]]), SIGNED, signed=True)
    )[0]
    negative, zero, positive, nothing, beyond = pixels
    assert tuple(negative) == (40, 120, 235, 255)
    assert tuple(positive) == tuple(beyond) == (221, 76, 12, 255)
    assert zero[3] == nothing[3] == 0


def test_opacity_is_proportional_to_the_position():
    position = np.linspace(0, 1, 21).reshape(3, 7)
    for stops, signed in ((SIGNED, True), (UNIT, False)):
        pixels = decode_png(palette_png(position, stops, signed=signed))
        assert pixels.shape == (3, 7, 4)
        assert np.abs(pixels[..., 3] / 255 - position).max() < 0.01


def test_the_uri_holds_the_png():
    png = palette_png(np.zeros((1, 1)), UNIT, signed=False)
    head, body = data_uri(png).split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == png
