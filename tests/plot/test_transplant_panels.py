"""The figure of an experiment with transplants."""

from typing import Any

import numpy as np
import pytest

from ssmlens.plot.theme import DARK
from ssmlens.plot.transplant_panels import LayerStudents, transplant_panels
from ssmlens.runs.rank_statistics import correlation

LAYERS = np.array([3, 0, 1])
SCORES = {"copy_score": np.array([0.9, 0.1, 0.5]), "x<b>": np.array([np.nan, 0.2, 0.1])}
AT_40 = np.array([[0.8, 0.7, 0.9], [0.2, 0.2, 0.2], [0.5, 0.1, 0.6]])


def students(arm="transplant"):
    return LayerStudents(arm, LAYERS, SCORES, {40: AT_40, 80: AT_40 / 2})


@pytest.fixture
def figure():
    references = {
        "default <i>": {40: np.array([0.1, 0.05, 0.2]), 80: np.array([0.0, 0.0, 0.0])},
        "mimetic": {40: np.array([0.6, 0.6, 0.6]), 80: np.array([0.3, 0.2, 0.4])},
    }
    arms = [students(), students("shuffled")]
    return transplant_panels(
        arms, references, list(SCORES), [40, 80], "characters right", theme=DARK
    )


def points(figure: Any, name: str) -> list[Any]:
    return [
        trace for trace in figure.data if trace.name == name and trace.error_y.array is not None
    ]


def test_a_panel_a_score_and_length_with_the_seeds_as_bars(figure):
    panels = points(figure, "transplant")
    assert len(panels) == 4
    first, _, below, _ = panels
    assert list(first.x) == [0.9, 0.1, 0.5]
    assert list(first.text) == ["3", "0", "1"]
    assert np.allclose(first.y + first.error_y.array, AT_40[:, 2])
    assert np.allclose(first.y - first.error_y.arrayminus, AT_40[:, 1])
    assert np.allclose(below.y, AT_40[:, 0] / 2)


def test_references_are_lines_in_every_panel_and_bands_where_seeds_differ(figure):
    lines = [shape for shape in figure.layout.shapes if shape.type == "line"]
    bands = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert sorted(shape.y0 for shape in lines) == [0.0, 0.0, 0.1, 0.1, 0.3, 0.3, 0.6, 0.6]
    assert sorted((s.y0, s.y1) for s in bands) == [(0.05, 0.2)] * 2 + [(0.2, 0.4)] * 2
    assert len({shape.line.dash for shape in lines}) == 2


def test_arms_differ_by_more_than_their_colour(figure):
    ours, theirs = points(figure, "transplant")[0], points(figure, "shuffled")[0]
    assert ours.marker.symbol != theirs.marker.symbol
    assert ours.marker.color != theirs.marker.color


def test_rank_correlations_over_layers_stand_above_their_panel(figure):
    told = [note.text for note in figure.layout.annotations]
    assert told[0] == "rank corr.: transplant +1.00, shuffled +1.00"
    assert told[1] == "", "two layers with a score have no rank correlation"


def test_each_arm_is_in_the_legend_once_and_names_are_only_text(figure):
    shown = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert shown == ["transplant", "shuffled", "default &lt;i&gt;", "mimetic"]
    assert figure.layout.xaxis4.title.text == "x&lt;b&gt;"
    assert figure.layout.yaxis3.title.text == "characters right<br>at length 80"


def test_one_control_beside_several_layers():
    one = LayerStudents(
        "shuffled", LAYERS[:1], {n: s[:1] for n, s in SCORES.items()}, {40: AT_40[:1]}
    )
    figure: Any = transplant_panels([students(), one], {}, ["copy_score"], [40], "characters right")
    assert [len(points(figure, name)[0].x) for name in ("transplant", "shuffled")] == [3, 1]
    assert figure.layout.annotations[0].text == "rank corr.: transplant +1.00"


def test_a_reference_without_a_measure_is_not_drawn():
    nothing = {"default": {40: np.full(3, np.nan)}}
    figure: Any = transplant_panels([students()], nothing, ["copy_score"], [40], "characters right")
    assert not figure.layout.shapes


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
    found = correlation(np.array(a, float), np.array(b, float))
    assert found == pytest.approx(expected, nan_ok=True)
