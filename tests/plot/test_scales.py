import math

import numpy as np
import pytest

from ssmlens.plot.scales import SCALES, coloured, robust_limit


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(7, 9)) * 10.0 ** rng.uniform(-5, 0, (7, 9))
    values[0, :3] = [np.nan, 0.0, 4.0]
    return values


def test_one_spike_does_not_set_the_limit():
    values = np.random.default_rng(1).uniform(-1, 1, (50, 50))
    values[3, 3] = 1e6
    assert 0.98 < robust_limit(values) <= 1.0


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.full((2, 2), np.nan), np.zeros((0, 0))])
def test_nothing_to_measure_has_limit_one(values):
    assert robust_limit(values) == 1.0


@pytest.mark.parametrize("scale", SCALES)
def test_signs_zeros_and_holes_stay(values, scale):
    position = coloured(values, scale).position
    assert np.array_equal(np.isnan(position), np.isnan(values))
    assert np.array_equal(np.sign(position), np.sign(values), equal_nan=True)


@pytest.mark.parametrize("scale", SCALES)
def test_scales_keep_order_and_are_symmetric(values, scale):
    position = coloured(values, scale).position
    order = np.argsort(values[~np.isnan(values)])
    assert (np.diff(position[~np.isnan(values)][order]) >= 0).all()
    assert np.allclose(coloured(-values, scale).position, -position, equal_nan=True)


def test_linear_is_the_value_in_units_of_its_limit(values):
    shown = coloured(values, "linear")
    assert np.allclose(shown.position * shown.limit, values, equal_nan=True)
    assert coloured(values, "linear", limit=2.0).position[0, 2] == 2.0


def test_symlog_by_its_formula(values):
    position = coloured(values, "symlog").position
    threshold = 4.0 / 1000
    for value, place in zip(values.ravel(), position.ravel(), strict=True):
        if not math.isnan(value):
            bent = math.log(1 + abs(value) / threshold) / math.log(1 + 4.0 / threshold)
            assert place == pytest.approx(math.copysign(bent, value))


def test_rank_by_counting(values):
    position = coloured(values, "rank").position
    known = [abs(v) for v in values.ravel() if not math.isnan(v) and v != 0]
    for value, place in zip(values.ravel(), position.ravel(), strict=True):
        if not math.isnan(value):
            share = sum(k <= abs(value) for k in known) / len(known)
            assert place == pytest.approx(math.copysign(share, value) if value else 0)


@pytest.mark.parametrize("scale", SCALES)
def test_a_mask_lies_in_zero_to_one(scale):
    mask = np.tril(0.9 ** np.arange(25.0).reshape(5, 5))
    position = coloured(mask, scale, signed=False).position
    assert position.min() == 0
    assert position.max() == pytest.approx(1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("limit", [1e-7, 0.03, 0.95, 1.03, 512.0])
def test_ticks_say_the_value_at_their_position(scale, limit):
    values = np.array([[limit, limit / 9]])
    positions, texts = coloured(values, scale, limit=limit).ticks
    assert len(positions) == len(texts)
    assert list(positions) == sorted(positions)
    for place, text in zip(positions, texts, strict=True):
        if scale != "rank":
            value = float(text.replace("−", "-"))
            there = coloured(np.array([[value]]), scale, limit=limit).position[0, 0]
            assert there == pytest.approx(place, rel=0.06)


@pytest.mark.parametrize("scale", SCALES)
def test_a_map_of_zeros_is_drawn(scale):
    assert (coloured(np.zeros((2, 2)), scale).position == 0).all()
