"""Curves and bands of arms, and students against their teachers' scores."""

import numpy as np
import pytest

from ssmlens.plots import DARK, LIGHT
from ssmlens.plots.training_curves import Curve, arm_line, training_curves
from ssmlens.plots.transplant import Students, rank_correlation, transplant_figure


def curve(arm="default", runs=3.0, style=0):
    x = np.array([1.0, 2.0, 4.0])
    return Curve(arm, style, x, x / 10, x / 20, x / 5, np.full(3, runs))


def test_a_line_and_a_band_an_arm_of_one_colour():
    figure = training_curves([curve(), curve("mimetic", 1.0, 1)], "step", "loss")
    band, line, other = figure.data
    assert np.allclose(line.y, [0.1, 0.2, 0.4])
    assert np.allclose(band.y, [0.2, 0.4, 0.8, 0.2, 0.1, 0.05]), (
        "up along the most, back along the least"
    )
    assert band.fillcolor == "rgba(31,95,196,0.16)"
    assert line.line.color == LIGHT.accent
    assert (line.name, other.name) == ("default", "mimetic")
    assert other.line.color != line.line.color
    assert not band.showlegend


def test_no_two_of_fifteen_arms_look_alike():
    assert len({tuple(arm_line(n).values()) for n in range(15)}) == 15
    assert arm_line(0, DARK)["color"] == DARK.accent


def test_names_are_only_text():
    (line,) = training_curves([curve("<b>x</b> y\u202e", 1.0)], "step", "loss").data
    assert line.name == "&lt;b&gt;x&lt;/b&gt; y\\u202e"
    assert "<b>" not in line.hovertemplate


def test_a_single_place_is_seen():
    point = Curve("a", 0, *(np.ones(1) for _ in range(5)))
    assert training_curves([point], "step", "loss").data[-1].mode == "lines+markers"
    assert len(training_curves([], "step", "loss").data) == 0


def test_few_places_are_the_ticks():
    figure = training_curves(
        [curve()], "learning rate", "x", marked=True, logarithmic=True, share=True
    )
    assert list(figure.layout.xaxis.tickvals) == [1, 2, 4]
    assert figure.layout.xaxis.type == "log"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3], [1, 3, 2], 0.5),
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486832980505138),
        ([1, 2, 3, np.nan], [1, 3, 2, 9], 0.5),
        ([1, 2], [1, 2], np.nan),
        ([1, 1, 1], [1, 2, 3], np.nan),
    ],
)
def test_rank_correlation(a, b, expected):
    found = rank_correlation(np.array(a, float), np.array(b, float))
    assert found == pytest.approx(expected, nan_ok=True)


def test_students_over_scores_with_the_controls_as_lines():
    layers, scores = np.arange(3), np.array([0.1, 0.5, 0.9])
    groups = [
        Students("transplant", 25, 2, True, layers, scores, np.array([0.2, 0.4, 0.8])),
        Students("transplant", 50, 2, False, layers, scores, np.array([0.1, np.nan, 0.3])),
    ]
    figure = transplant_figure(groups, {"default <i>": (0, 0.3)}, "mask_ones", "strings right")
    once, twice = figure.data
    assert once.name == "transplant, length 25 (rank correlation +1.00)"
    assert twice.name == "transplant, length 50", "two students have no rank correlation"
    assert list(once.text) == ["0", "1", "2"]
    assert (once.marker.symbol, twice.marker.symbol) == ("circle", "circle-open")
    (line,) = figure.layout.shapes
    assert line.y0 == line.y1 == 0.3
    assert figure.layout.annotations[0].text == "default &lt;i&gt;"
