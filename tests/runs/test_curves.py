"""Curves over the runs of an arm, from numbers that are known."""

import json
import math

import numpy as np
import pytest

from ssmlens.runs.arms import by_arm
from ssmlens.runs.curves import MOST_POINTS, by_length, by_rate, by_step, over_runs
from ssmlens.runs.run import open_run


@pytest.fixture
def arms(tmp_path):
    """The runs of two arms: two seeds at two rates, one failed; the other arm has measured nothing."""

    def run(name, rate, seed, lines, state="done"):
        folder = tmp_path / f"{name}-{rate}-{seed}"
        folder.mkdir()
        config = {"arm": name, "learning_rate": rate, "seed": seed, "length": 4}
        (folder / "config.json").write_text(json.dumps(config))
        measured = [{"step": step, "split": "eval", "length": n, "char": c} for step, n, c in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(it) + "\n" for it in measured))
        status = {"state": state, "step": 9, "steps": 9, "seconds": 1.0}
        (folder / "status.json").write_text(json.dumps(status))
        return open_run(folder)

    return by_arm(
        [
            run("default", 1e-3, 0, [(1, 4, 0.25), (9, 4, 0.5), (9, 8, 0.125)]),
            run("default", 1e-3, 1, [(1, 4, 0.75), (9, 4, 1.0)]),
            run("default", 1e-2, 0, [(1, 4, 0.25)], state="failed"),
            run("mimetic", 1e-3, 0, []),
        ]
    )


def told(curve):
    parts = (curve.x, curve.mean, curve.low, curve.high, curve.runs)
    return curve.arm, curve.style, *(part.tolist() for part in parts)


def test_by_step_the_runs_that_failed_are_left_out(arms):
    styles = {arm: 7 + k for k, arm in enumerate(arms)}
    (curve,) = by_step(arms, styles, "char", "eval", 4)
    assert told(curve) == ("default", 7, [1, 9], [0.5, 0.75], [0.25, 0.5], [0.75, 1.0], [2, 2])


def test_by_length_a_run_that_failed_reached_nothing(arms):
    styles = dict.fromkeys(arms, 0)
    (curve,) = by_length(arms, styles, "char")
    reached = [0.5, 0.0625], [0.0, 0.0], [1.0, 0.125]
    assert told(curve) == ("default", 0, [4, 8], *reached, [3, 2])


def test_by_rate(arms):
    styles = dict.fromkeys(arms, 0)
    (curve,) = by_rate(arms, styles, "char", 4)
    assert told(curve) == ("default", 0, [1e-3, 1e-2], [0.75, 0], [0.5, 0], [1.0, 0], [2, 1])
    (curve,) = by_rate(arms, styles, "char", 8)
    assert told(curve)[2:] == ([1e-3, 1e-2], [0.125, 0], [0.125, 0], [0.125, 0], [1, 1])


def test_a_step_at_which_no_run_has_a_number_is_left_out():
    nothing = (np.array([0, 10]), np.array([1.0, math.nan]))
    assert [part.tolist() for part in over_runs([nothing], 50)] == [[0], [1], [1], [1], [1]]


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
