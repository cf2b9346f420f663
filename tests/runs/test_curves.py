"""Curves over the runs of an arm, from numbers that are known."""

import numpy as np
import pytest

from ssmlens.runs.curves import MOST_POINTS, over_runs


def test_a_band_over_runs_of_unequal_steps():
    measured = [
        (np.array([0, 10, 20]), np.array([1.0, 2.0, 3.0])),
        (np.array([0, 20, 30]), np.array([3.0, np.nan, 5.0])),
        (np.array([], dtype=int), np.array([])),
    ]
    steps, mean, low, high, count = over_runs(measured, 2000)
    assert steps.tolist() == [0, 10, 20, 30]
    assert mean.tolist() == [2, 2, 3, 5]
    assert low.tolist() == [1, 2, 3, 5]
    assert high.tolist() == [3, 2, 3, 5]
    assert count.tolist() == [2, 1, 1, 1]
    assert all(len(part) == 0 for part in over_runs([], 2000))


def test_long_curves_are_thinned_and_keep_their_spikes():
    steps = np.arange(100_001)
    values = np.ones(100_001)
    values[54_321] = 9
    at_steps, mean, low, high, _ = over_runs([(steps, values)], MOST_POINTS)
    assert len(at_steps) == MOST_POINTS
    assert (np.diff(at_steps) > 0).all()
    assert high.max() == 9
    assert abs(at_steps[high.argmax()] - 54_321) < 51
    assert low.tolist() == [1] * MOST_POINTS
    assert mean.mean() == pytest.approx(values.mean(), rel=1e-3)
