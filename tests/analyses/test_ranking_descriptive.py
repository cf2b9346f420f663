"""What README.md says of a teacher beside the fixed statistics, and of students that were trained again."""

import numpy as np
import pytest

from analyses.ranking.analysis import Teacher
from analyses.ranking.descriptive import (
    accuracy_by_step,
    best_and_median,
    first_layer,
    without_best,
)
from analyses.ranking.rerun import compare
from ssmlens.runs.run import find_runs, open_run
from ssmlens.runs.validation import LayerTable
from ssmlens.training.config import TrainConfig
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path


@pytest.fixture
def table():
    """Nine layers; layer 17 reaches most, .9 in the mean of two seeds. The score has the same order but for one."""
    outcome = np.array([0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.9, 0.8])
    real = np.stack([outcome - 0.01, outcome + 0.01], axis=1)
    score = np.where(outcome == 0.8, -1.0, outcome)
    unknown = np.full(9, np.nan)
    scores = {"known": score, "unknown": unknown}
    return LayerTable(np.arange(10, 19), scores, real, np.empty((9, 0)), "char at 100")


def test_the_best_and_the_median_layer(table):
    ends = best_and_median(table)
    assert (ends.layer, ends.best, ends.median) == (17, pytest.approx(0.9), pytest.approx(0.5))
    assert first_layer(table, "known") == 17
    assert first_layer(table, "unknown") is first_layer(table, "no such score") is None


def test_the_order_without_the_best_layer(table):
    """Of the 8 layers left the best scores least: its ranks differ by 7, the other seven's by 1."""
    expected = 1 - 6 * (7**2 + 7 * 1**2) / (8 * (8**2 - 1))
    assert without_best(table, "known") == pytest.approx(expected)


def test_the_course_of_a_teacher(table):
    curves = {"64": {"step": [0, 300], "char": [0.01, 0.5]}, "128": {"step": [0], "char": [0.2]}}
    teacher = Teacher("C0", {"run": {"eval": curves}}, [], table, table)
    assert accuracy_by_step(teacher) == {0: 0.01, 300: 0.5}
    assert accuracy_by_step(teacher, 99) == {}


def write(out, init, rate, seed, char):
    config = TrainConfig(length=4, init=init, learning_rate=rate, seed=seed)
    with RunFolder(run_path(out, config), config) as folder:
        folder.measure(1, "eval", 4, loss=1.0, char=0.99)
        folder.measure(1, "eval", 8, loss=1.0, char=char)
        folder.write_status("done", 1, 1, 1.0)


def test_students_trained_again_are_compared_with_the_same_ones(tmp_path):
    """Of equal arm, rate and seed at the longest length; the spread is that of their own arms and rates."""
    for seed, (default, mimetic) in enumerate([(0.1, 0.4), (0.2, 0.7)]):
        write(tmp_path / "first", "default", 1e-3, seed, default)
        write(tmp_path / "first", "mimetic", 1e-3, seed, mimetic)
        write(tmp_path / "first", "mimetic", 1e-2, seed, 0.9 * seed)
    write(tmp_path / "again", "default", 1e-3, 0, 0.12)
    write(tmp_path / "again", "mimetic", 1e-3, 0, 0.34)
    first, again = (
        [open_run(path) for path in find_runs(tmp_path / name)] for name in ("first", "again")
    )
    found = compare(first, again)
    assert (found.students, found.arm) == (2, "mimetic")
    assert found.mean == pytest.approx((0.02 + 0.06) / 2)
    assert found.between_seeds == pytest.approx((0.1 + 0.3) / 2)
    assert (found.committed, found.again) == pytest.approx((0.4, 0.34))
