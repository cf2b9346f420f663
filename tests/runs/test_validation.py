"""Tables of layers from run folders, and what is predicted over them, against numbers put together by hand."""

import math

import numpy as np
import pytest

from ssmlens.errors import UsageError
from ssmlens.runs.run import find_runs, open_run
from ssmlens.runs.validation import (
    TRAINING_LOSS,
    LayerTable,
    layer_table,
    predict,
    reached_by_seed,
    training_loss,
)
from ssmlens.training.config import TrainConfig
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path

LAYERS = 5


def write(out, layer, rate, seed, char, *, shuffled=False, state="done", scores=None):
    config = TrainConfig(
        length=4, init="transplant", teacher="t", teacher_layer=layer, learning_rate=rate,
        seed=seed, shuffled=shuffled,
    )  # fmt: skip
    with RunFolder(run_path(out, config), config) as folder:
        for step, loss in ((0, 3.0), (5, 2.0), (10, 1.0 - char)):
            folder.measure(step, "eval", 4, loss=loss, char=char / 2)
            folder.measure(step, "eval", 8, loss=loss, char=char)
        folder.write_scores(layer, scores or {"s": float(layer), "log_scale": layer % 2})
        folder.write_status(state, 10, 10, 1.0)


@pytest.fixture
def experiment(tmp_path):
    """Two seeds and rates; seed 1 lacks a run, and the control of seed 0 another."""
    for seed in (0, 1):
        for layer in range(LAYERS):
            for rate in (1e-3, 1e-2):
                if (seed, layer, rate) != (1, 2, 1e-2):
                    write(tmp_path, layer, rate, seed, 0.1 * layer + rate)
                if (seed, layer, rate) != (0, 4, 1e-3):
                    write(tmp_path, layer, rate, seed, 0.3, shuffled=True)
    return tmp_path


def runs_of(folder):
    return [open_run(path) for path in find_runs(folder)]


def test_whole_seeds_alone_count(experiment):
    table = layer_table(runs_of(experiment))
    assert table.layer.tolist() == list(range(LAYERS))
    assert table.outcome == "char at 8"
    np.testing.assert_allclose(table.real, [[0.1 * k + 0.0055] for k in range(LAYERS)])
    np.testing.assert_allclose(table.shuffled, np.full((LAYERS, 1), 0.3))
    assert table.scores["s"].tolist() == [0, 1, 2, 3, 4]


def test_the_loss_in_training_is_of_what_follows_the_start(experiment):
    table = layer_table(runs_of(experiment), TRAINING_LOSS)
    assert table.outcome == "training loss at 4"
    for k in range(LAYERS):
        losses = [(2.0 + 1.0 - 0.1 * k - rate) / 2 for rate in (1e-3, 1e-2)]
        assert table.real[k, 0] == pytest.approx(-np.mean(losses))


def test_a_run_that_failed_has_learned_nothing(tmp_path):
    for layer in range(3):
        write(tmp_path, layer, 1e-3, 0, 0.5, state="failed" if layer == 1 else "done")
    assert layer_table(runs_of(tmp_path)).real[:, 0].tolist() == [0.5, 0, 0.5]
    (failed,) = (run for run in runs_of(tmp_path) if run.status.state == "failed")
    assert training_loss(failed, 4) == 3.0
    assert math.isnan(training_loss(failed, None))


def test_too_little_for_an_order(tmp_path):
    write(tmp_path, 0, 1e-3, 0, 0.5)
    with pytest.raises(UsageError, match="students of 1 layers"):
        layer_table(runs_of(tmp_path))
    write(tmp_path, 1, 1e-3, 0, 0.5)
    write(tmp_path, 2, 1e-3, 1, 0.5)
    with pytest.raises(UsageError, match="no seed has students of every layer"):
        layer_table(runs_of(tmp_path))


def test_a_layer_that_lacks_a_rate_or_every_run_has_no_whole_seed(tmp_path):
    for layer in range(3):
        for rate in (1e-3, 1e-2) if layer else (1e-3,):
            write(tmp_path, layer, rate, 0, 0.5)
    runs = runs_of(tmp_path)
    assert reached_by_seed(runs, [1, 2], "char", 8).tolist() == [[0.5], [0.5]]
    assert reached_by_seed(runs, [0, 1, 2], "char", 8).shape == (3, 0)
    assert reached_by_seed(runs, [1, 2, 9], "char", 8).shape == (3, 0)


def partial_by_hand(a, b, covariates):
    """Correlation of what least squares on the covariates' ranks leaves of the ranks; no ties."""
    a, b, *others = (np.argsort(np.argsort(v)).astype(float) for v in (a, b, *covariates))
    known = np.stack([np.ones(len(a)), *others], axis=1)
    left = [v - known @ np.linalg.lstsq(known, v, rcond=None)[0] for v in (a, b)]
    return left[0] @ left[1] / math.sqrt((left[0] @ left[0]) * (left[1] @ left[1]))


@pytest.mark.parametrize(
    ("score", "given"),
    [
        ("s", ["log_scale", "memory_length"]),
        ("log_scale", ["memory_length"]),
        ("memory_length", ["log_scale"]),
    ],
)
def test_depth_scale_and_memory_are_given_but_for_the_score_itself(score, given):
    numbers, depth = np.random.default_rng(4), np.arange(12)
    scores = {name: numbers.normal(size=12) for name in ("s", "log_scale", "memory_length")}
    real = numbers.normal(size=(12, 1))
    table = LayerTable(depth, scores, real, np.empty((12, 0)), "")
    wanted = partial_by_hand(scores[score], real[:, 0], [depth, *(scores[n] for n in given)])
    assert predict([table], score, samples=10).partial == pytest.approx(wanted)


def test_a_score_that_says_it_all(experiment):
    table = layer_table(runs_of(experiment))
    found = predict([table, table], "s", samples=200)
    assert found.by_teacher == (pytest.approx(1), pytest.approx(1))
    assert found.rho == pytest.approx(0.999)
    assert found.p == pytest.approx(1 / 25)
    assert found.regret == (0, 0)
    assert found.structure == pytest.approx(0.999), "real less a constant"
    assert math.isnan(found.shuffled), "a constant"
    assert math.isnan(found.partial), "the score is the depth: nothing is left of it"


def test_a_score_that_no_layer_has(experiment):
    table = layer_table(runs_of(experiment))
    table = type(table)(table.layer, {"s": np.full(LAYERS, np.nan)}, table.real, table.shuffled, "")
    found = predict([table], "s", samples=10)
    assert math.isnan(found.rho)
    assert all(map(math.isnan, (*found.interval, found.p, *found.regret)))


def test_without_controls_structure_is_not_told(experiment):
    runs = [run for run in runs_of(experiment) if not run.shuffled]
    found = predict([layer_table(runs)], "log_scale", samples=50)
    assert math.isnan(found.structure)
    assert math.isnan(found.structure_interval[0])
    assert math.isfinite(found.rho)
