import base64
import struct

import numpy as np
import pytest

from ssmlens.plots import DARK, attention_heatmap, causal
from ssmlens.plots.heatmap import NUMBERS


def cells(figure, name="z"):
    return np.asarray(figure.data[0][name])


def test_tokens_stand_on_both_axes_and_hover_names_them():
    values = causal(np.array([[0.5, 0.0], [-0.25, 1.0]]))
    figure = attention_heatmap(values, ["a", "b"])
    trace = figure.data[0]
    assert list(trace.x) == list(trace.y) == ["0 a", "1 b"]
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "category"
    assert list(figure.layout.yaxis.range) == [1.5, -0.5]  # queries run down
    for part in ("%{y}", "%{x}", "%{customdata"):
        assert part in trace.hovertemplate
    assert np.allclose(cells(figure, "customdata"), values, equal_nan=True)


def test_signed_maps_are_symmetric_about_zero_and_masks_are_not():
    values = np.random.default_rng(0).normal(size=(5, 5)) + 3
    signed = attention_heatmap(values, list("abcde")).data[0]
    mask = attention_heatmap(np.full((1, 1), 0.5), ["a"], signed=False).data[0]
    assert (signed.zmin, signed.zmax, mask.zmin, mask.zmax) == (-1, 1, 0, 1)
    assert mask.z[0][0] == 0.5


@pytest.mark.parametrize("scale", ["linear", "symlog", "rank"])
def test_hover_shows_the_value_whatever_the_scale(scale):
    values = np.array([[1e-3, 0.0], [-5.0, 2.0]])
    figure = attention_heatmap(values, ["a", "b"], scale=scale)
    assert np.allclose(cells(figure, "customdata"), values)
    assert np.array_equal(np.sign(cells(figure)), np.sign(values))


def test_a_rectangle_keeps_its_positions():
    figure = attention_heatmap(
        np.ones((2, 3)), ["p", "q"], ["a", "b", "c"], first_query=10, first_key=4
    )
    assert list(figure.data[0].y) == ["10 p", "11 q"]
    assert list(figure.data[0].x) == ["4 a", "5 b", "6 c"]


def test_a_large_map_is_an_image_with_all_its_pixels_under_blocks_to_hover():
    tokens = 323
    values = causal(np.eye(tokens, k=-40) * -2.0)
    assert values.size > NUMBERS
    figure = attention_heatmap(values, ["t"] * tokens, limit=2.0)
    image = figure.layout.images[0]
    png = base64.b64decode(image.source.split(",")[1])
    assert struct.unpack(">II", png[16:24]) == (tokens, tokens)
    assert (image.x, image.y, image.sizex, image.sizey) == (-0.5, -0.5, tokens, tokens)
    blocks = cells(figure, "customdata")
    assert blocks.shape == (162, 162)
    assert (blocks == -2.0).any()  # a thin diagonal can still be hovered
    trace = figure.data[0]
    assert trace.opacity == 0
    assert (trace.x0, trace.dx) == (trace.y0, trace.dy) == (0.5, 2)  # over the image's pixels
    assert len(figure.to_json()) < 800_000


def test_tokens_must_match():
    with pytest.raises(ValueError, match="not 3 and 2"):
        attention_heatmap(np.ones((2, 2)), ["a"] * 3, ["a"] * 2)


def test_token_text_is_not_markup():
    figure = attention_heatmap(np.ones((1, 1)), ["<b>hi</b>"], theme=DARK)
    assert "<" not in figure.data[0].x[0]
    assert "<b>" not in figure.to_json()
