"""The picture of a map in parts, as the report carries it, against the PNG that everybody else is given."""

import base64

import numpy as np
import pytest
from png_pixels import decode_png

from ssmlens.plot.picture import colour_edges, palette, picture, stamp
from ssmlens.plot.scales import SCALES


def cells(signed):
    draw = np.random.default_rng(3)
    values = draw.lognormal(-4, 3, (37, 37)).astype(np.float32)
    values *= draw.choice([-1, 1], values.shape) if signed else 1
    values[5] = 0
    return np.where(np.tri(37) > 0, values if signed else np.minimum(values, 1), np.nan)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("signed", [True, False])
def test_edges_and_palette_are_the_image(scale, signed):
    values = cells(signed).astype(np.float32)
    edges, colours = colour_edges(values, scale, signed=signed), palette(signed=signed)
    assert colours.shape == (255, 4)
    pixels = decode_png(stamp(values, signed=signed, scale=scale))
    for row, key in zip(*np.tril_indices(37), strict=True):
        level = sum(edge <= abs(values[row, key]) for edge in edges)
        index = (127 if signed else 0) + np.sign(values[row, key]) * level
        assert np.array_equal(pixels[row, key], colours[int(index)]), (row, key)
    assert (pixels[np.triu_indices(37, 1)][:, 3] == 0).all(), "nothing above the diagonal"


@pytest.mark.parametrize("values", [np.full((1, 1), np.nan), np.zeros((1, 1)), np.ones((3, 3))])
def test_a_map_without_contrast_has_an_image(values):
    image, _ = picture(values.astype(np.float32), (0.0, 0.0, 1.0, 1.0), signed=True)
    png = base64.b64decode(image["source"].split(",")[1])
    pixels = decode_png(png)
    expected = 0 if not np.nan_to_num(values).any() else 255
    assert (pixels[..., 3] == expected).all()
