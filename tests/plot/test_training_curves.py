"""Curves and bands of arms."""

import numpy as np

from ssmlens.plot.theme import DARK, LIGHT
from ssmlens.plot.training_curves import arm_line, training_curves
from ssmlens.runs.curves import Curve


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
