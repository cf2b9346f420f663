import math

import numpy as np
import pytest
from map_scores import lag_energy

from ssmlens.plot.closure_errors import FLOOR, closure_figure
from ssmlens.plot.lags import lag_profile
from ssmlens.plot.score_table import score_heatmap
from ssmlens.plot.theme import DARK, LIGHT, ORDER, SIGNED, UNIT, colorscale, template
from ssmlens.store.verdict import Verdict


def verdict(error, tolerance=1e-4):
    """The verdict on a layer with this closure error."""
    return Verdict(
        "yes", "", {"closure_error": error}, {"closure_error": tolerance}, (), None, math.nan
    )


def test_lag_profile_names_the_sharpest_lag():
    values = np.eye(31, k=-9) + 2 * np.eye(31, k=-1)  # stronger, but the convolution's
    figure = lag_profile(lag_energy(values), first_lag=4)
    assert figure.layout.annotations[0].x == 9
    assert sum(figure.data[0].y) == pytest.approx(1)
    assert figure.layout.shapes[0].x1 == 3.5


@pytest.mark.parametrize("energy", [np.zeros(5), np.ones(1), np.zeros(1)])
def test_lag_profile_of_nothing_names_no_lag(energy):
    assert not lag_profile(energy, first_lag=1).layout.annotations


def test_chance_is_shown_where_a_cell_is_pointed_at():
    chance = {"b": "0.017"}
    drawn = score_heatmap(np.zeros((2, 3)), ["a", "b"], range(3), chance=chance).data[0]
    assert drawn.hovertemplate.endswith("%{text}%{customdata}<extra></extra>")
    assert [list(row) for row in drawn.customdata] == [[""] * 3, ["<br>0.017 by chance"] * 3]


def test_scores_are_compared_within_their_row():
    values = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, np.nan], [np.nan] * 3])
    figure = score_heatmap(values, ["a", "b", "c"], [0, 4, 7])
    trace = figure.data[0]
    assert np.allclose(trace.z, [[0, 1, 0.5], [0.5, 0.5, np.nan], [np.nan] * 3], equal_nan=True)
    assert list(trace.text[0]) == ["1", "3", "2"]
    assert trace.text[1][2] == "—"
    assert list(trace.x) == ["0", "4", "7"]


def test_values_are_written_only_where_there_is_room():
    assert score_heatmap(np.zeros((1, 48)), ["a"], range(48)).data[0].texttemplate is None
    assert score_heatmap(np.zeros((1, 4)), ["a"], range(4)).data[0].texttemplate


def test_closure_marks_what_is_beyond_tolerance_by_shape():
    errors = [1e-6, 1e-4, 2e-4, np.nan, 0.0, np.inf]
    layers = [0, 1, 2, 3, 5, 8]
    figure = closure_figure({n: verdict(e) for n, e in zip(layers, errors, strict=True)})
    assert list(figure.data[0].x) == layers
    trace = figure.data[0]
    assert list(trace.marker.symbol) == ["circle", "circle", "x", "x", "circle", "x"]
    assert trace.y[4] == FLOOR
    assert trace.y[3] == trace.y[5] == max(trace.y)
    assert trace.customdata[3] == "nan"
    assert figure.layout.annotations[0].y == pytest.approx(math.log10(1e-4))
    assert figure.layout.yaxis.type == "log"


def test_closure_without_any_finite_error_is_drawn():
    figure = closure_figure({0: verdict(np.nan, tolerance=0.0)})
    assert list(figure.data[0].marker.symbol) == ["x"]


@pytest.mark.parametrize("stops", [SIGNED, UNIT, ORDER])
def test_scales_span_zero_to_one(stops):
    scale = colorscale(stops)
    assert [scale[0][0], scale[-1][0]] == [0, 1]
    assert all(colour.startswith("rgba(") for _, colour in scale)


def test_templates_differ_in_their_ink():
    assert template(LIGHT).layout.font.color != template(DARK).layout.font.color


def test_the_layer_of_most_effect_has_the_strongest_colour():
    values = np.array([[-3.0, 0.0, -1.0], [0.1, 0.3, 0.2]])
    drawn = score_heatmap(values, ["ablation_effect", "copy_score"], range(3)).data[0]
    assert np.allclose(drawn.z, [[1, 0, 1 / 3], [0, 1, 0.5]])
    assert list(drawn.text[0]) == ["−3", "0", "−1"]


def test_columns_may_be_heads():
    figure = score_heatmap(np.zeros((1, 2)), ["a"], ["3.0", "3.11"], what="head")
    assert list(figure.data[0].x) == ["3.0", "3.11"]
    assert (
        figure.data[0].hovertemplate == "head %{x}<br>%{y}<br>%{text}%{customdata}<extra></extra>"
    )
    assert figure.layout.xaxis.title.text == "head"
