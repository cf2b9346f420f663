"""Results that are kept in one file: run folders made of it again say what the runs said, and are not run again."""

import json

import numpy as np
import pytest

from analyses.results_file import keep, restore, runs_below
from ssmlens.runs.compare import compare
from ssmlens.runs.run import open_run
from ssmlens.runs.table import tabulate
from ssmlens.training.config import TrainConfig
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path, sweep

RATES, SEEDS = (1e-3, 3e-3), (0, 1, 2)


def config(init, rate, seed, **fields):
    return TrainConfig(length=5, init=init, learning_rate=rate, seed=seed, steps=1000, **fields)


def write(out, config, char, state="done", scores=None):
    """A run with a hundred training losses and two evaluations."""
    with RunFolder(run_path(out, config), config) as folder:
        for step in range(10, 1001, 10):
            folder.measure(step, "train", None, loss=3 / step)
        for step, share in ((500, char / 2), (1000, char)):
            for length in (5, 10):
                values = {"loss": float("nan"), "char": share / (length / 5), "string": share**2}
                folder.measure(step, "eval", length, **values)
        if scores:
            folder.write_scores(config.teacher_layer, scores)
        folder.write_status(state, 1000, 1000, 12.5, "" if state == "done" else "the loss is nan")


@pytest.fixture
def runs(tmp_path):
    out = tmp_path / "out"
    for seed in SEEDS:
        for rate in RATES:
            for place, init in enumerate(("mamba-ssm", "mimetic")):
                state = "failed" if (seed, rate, place) == (2, 3e-3, 0) else "done"
                char = (0.2 + 0.1 * seed) * (1 + place) + 10 * rate + 1 / 3
                write(out, config(init, rate, seed), min(char, 1.0), state)
    write(out, config("mimetic", 1e-2, 0), 0.1, "running")
    return out


def test_what_ended_is_as_it_was_but_for_rounding(runs, tmp_path):
    count = keep(runs_below(runs), tmp_path / "kept" / "results.json", {"by": ["x"]})
    assert count == 12, "the run that has not ended is left out"
    assert restore(tmp_path / "kept" / "results.json", tmp_path / "new") == {"by": ["x"]}
    ended = [run for run in runs_below(runs) if run.status.state in ("done", "failed")]
    again = runs_below(tmp_path / "new")
    assert [run.name for run in again] == [run.name for run in ended], "named after their config"
    assert [run.config for run in again] == [run.config for run in ended]
    assert [run.status for run in again] == [run.status for run in ended]
    ours, theirs = tabulate(again), tabulate(ended)
    for name in ("char", "string", "loss", "train_loss"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
    ours, theirs = compare(again), compare(ended)
    assert ours.verdict == theirs.verdict
    assert [arm.overall for arm in ours.arms] == pytest.approx(
        [arm.overall for arm in theirs.arms], abs=1e-4
    )


def test_losses_are_thinned_from_the_last_one_back(runs, tmp_path):
    file = tmp_path / "results.json"
    keep(runs_below(runs), file, {})
    held = json.loads(file.read_text())["runs"][0]["train"]
    assert held["step"] == list(range(40, 1001, 40))
    assert held["loss"] == pytest.approx([3 / step for step in held["step"]], rel=1e-4)
    assert "learning_rate" not in json.loads(file.read_text())["common"]


def test_what_is_restored_is_not_trained_again(runs, tmp_path):
    keep(runs_below(runs), tmp_path / "results.json", {})
    restore(tmp_path / "results.json", tmp_path / "new")
    restore(tmp_path / "results.json", tmp_path / "new")  # once more does nothing
    configs = [config(i, r, s) for i in ("mamba-ssm", "mimetic") for r in RATES for s in SEEDS]
    before = [run.written for run in runs_below(tmp_path / "new")]

    made = sweep(configs, tmp_path / "new", devices=("cpu",), work=print)
    assert len(made) == 12
    assert [run.written for run in runs_below(tmp_path / "new")] == before


def test_several_files_make_one_experiment(runs, tmp_path):
    out = tmp_path / "new"
    found = runs_below(runs)
    for part in (0, 1):
        keep(found[part::2], tmp_path / f"{part}.json", {})
        restore(tmp_path / f"{part}.json", out)
    assert len(runs_below(out)) == 12


def test_scores_of_a_transplant_are_kept(tmp_path):
    layer = {"teacher": "t", "teacher_layer": 3}
    one = config("transplant", 1e-3, 0, **layer)
    write(tmp_path / "out", one, 0.5, scores={"mask_ones": 0.123456, "copy_score": float("nan")})
    keep(runs_below(tmp_path / "out"), tmp_path / "results.json", {})
    restore(tmp_path / "results.json", tmp_path / "new")
    (run,) = runs_below(tmp_path / "new")
    assert run.teacher_scores["mask_ones"] == pytest.approx(0.12346)
    assert np.isnan(run.teacher_scores["copy_score"])
    assert json.loads((run.path / "scores.json").read_text())["layer"] == 3


def test_no_runs_yet(tmp_path):
    assert keep(runs_below(tmp_path / "nowhere"), tmp_path / "results.json", {}) == 0
    assert restore(tmp_path / "results.json", tmp_path / "new") == {}


def test_a_run_that_was_begun_is_replaced_by_one_that_ended(runs, tmp_path):
    keep(runs_below(runs), tmp_path / "results.json", {})
    begun = config("mimetic", 1e-3, 0)
    write(tmp_path / "new", begun, 0.0, "running")
    restore(tmp_path / "results.json", tmp_path / "new")
    run = open_run(run_path(tmp_path / "new", begun))
    assert run.status.state == "done"
    assert run.metrics.final("char", 5) == pytest.approx(0.4 + 0.01 + 1 / 3, abs=1e-4)
    assert run.metrics.curve("char", "eval", 5)[0].tolist() == [500, 1000]
