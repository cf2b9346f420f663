import numpy as np
import pytest

from ssmlens.plot.signals_decay import half_lives_figure, rates_figure
from ssmlens.plot.signals_tokens import Window, norms_figure, steps_figure
from ssmlens.plot.theme import DARK, LIGHT

HOSTILE = ["<b>x</b>", "<a href='javascript:1'>y</a>", "\u202e", "a\nb", "<br>"]


def test_columns_are_named_by_their_tokens_and_text_stays_text():
    window = Window(HOSTILE * 3, 4, 11, 2)
    assert len(window.labels) == 4
    assert window.labels[0].startswith("4–5 &lt;br&gt;")
    assert window.labels[-1].startswith("10 &lt;b&gt;")
    assert not any("<" in text for text in window.labels + window.axis["ticktext"])
    assert window.meta == {"first": 4, "end": 11, "block": 2}


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_steps_run_over_tokens_and_heads(theme):
    window = Window(["a", "b", "c"], 0, 3)
    cells = np.arange(6, dtype=np.float32).reshape(2, 3)
    figure = steps_figure(cells, ["0–7", "8–15"], "head", window, theme=theme)
    assert list(figure.layout.xaxis.categoryarray) == ["0 a", "1 b", "2 c"]
    assert list(figure.layout.yaxis.ticktext) == ["0", "8"]
    assert tuple(figure.layout.yaxis.range) == (1.5, -0.5)
    assert np.array_equal(figure.data[0].customdata, cells)


def test_norms_draw_the_mean_over_groups_within_their_range():
    window = Window(["a", "b", "c"], 0, 3)
    one, two = np.array([[1.0], [2], [3]]), np.array([[1.0, 3], [2, 2], [0, 8]])
    figure = norms_figure({"B": one, "C": two}, window)
    B, band, C = figure.data
    assert (B.name, C.name) == ("‖B‖", "‖C‖")
    assert list(B.x) == window.labels
    assert np.array_equal(C.y, [2, 2, 4])
    assert np.array_equal(band.y, [3, 2, 8, 0, 2, 1])


def test_half_lives_by_state_are_percentiles_over_heads():
    values = np.random.default_rng(0).uniform(1, 100, (50, 4))
    values[3, 1], values[:, 2] = np.inf, np.nan
    figure = half_lives_figure(values, 82)
    median = figure.data[-1]
    assert np.array_equal(median.x, [0, 1, 3])  # a state without any is left out
    finite = np.delete(values[:, 1], 3)
    assert np.isclose(median.y[1], np.median(finite))
    assert np.isclose(median.customdata[1, 0], np.percentile(finite, 5))
    assert figure.layout.shapes[0].y0 == 82
    assert "82 tokens" in figure.layout.annotations[0].text


def test_half_lives_of_heads_with_one_decay_are_points():
    figure = half_lives_figure(np.array([[2.0], [np.inf], [8]]), 5)
    assert np.array_equal(figure.data[0].y, [2, np.nan, 8], equal_nan=True)
    assert figure.layout.xaxis.title.text == "head"


def test_half_lives_where_none_is_finite():
    assert half_lives_figure(np.full((3, 2), np.inf), 5).layout.yaxis.type == "log"


@pytest.mark.parametrize(
    ("low", "high", "first"), [(-12, 0, "10<sup>-12</sup>"), (0, 1.2, "1"), (-0.5, 0.5, "0.5")]
)
def test_rates_stand_over_powers_or_round_numbers(low, high, first):
    edges = np.linspace(low, high, 5)
    figure = rates_figure(edges, np.array([1, 0, 9, 2]), "head")
    assert figure.layout.xaxis.ticktext[0] == first
    assert np.allclose(figure.data[0].customdata[0], 10.0 ** edges[:2])
    assert len(figure.layout.xaxis.ticktext) <= 12
