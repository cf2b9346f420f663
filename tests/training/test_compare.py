"""Comparisons: what is best, how sure that is, and when no winner may be called."""

import dataclasses
import json
import math
import statistics

import pytest

from ssmlens.errors import UsageError
from ssmlens.store.runs import find_runs, open_run
from ssmlens.training.compare import compare
from ssmlens.training.config import TrainConfig

RATES = (1e-3, 3e-3, 1e-2)
ARMS = {"default": "mamba-ssm", "mimetic": "mimetic"}


@pytest.fixture
def write(tmp_path):
    """write(init, rate, seed, char, …): a run that ended so."""

    def run(init, rate, seed, char, state="done", **fields):
        config = TrainConfig(init=init, learning_rate=rate, seed=seed, **fields)
        folder = tmp_path / config.digest()[:12]
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        line = {"step": 5, "split": "eval", "length": 20, "char": char, "string": char**2}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n" if char is not None else "")
        status = {"state": state, "step": 5, "steps": 5, "seconds": 1.0}
        (folder / "status.json").write_text(json.dumps(status))
        return folder

    return run


def found(tmp_path, **options):
    return compare([open_run(path) for path in find_runs(tmp_path)], **options)


def grid(write, default, mimetic, **fields):
    """Two arms: their accuracies by learning rate, a seed each."""
    for arm, values in (("mamba-ssm", default), ("mimetic", mimetic)):
        for rate, by_seed in zip(RATES, values, strict=True):
            for seed, char in enumerate(by_seed):
                write(arm, rate, seed, char, **fields)


LOW = [[0.1, 0.1, 0.2], [0.2, 0.45, 0.3], [0.1, 0.1, 0.1]]
HIGH = [[0.92, 0.1, 0.91], [0.99, 0.98, 0.97], [0.3, 0.2, 0.95]]


def test_a_fair_comparison_has_a_winner(write, tmp_path):
    grid(write, LOW, HIGH)
    told = found(tmp_path)
    assert told.winner == "mimetic"
    assert told.verdict == "mimetic wins, at learning rate 0.003"
    best, other = told.arms
    assert (best.arm, best.best_rate, best.seeds, best.failed) == ("mimetic", 3e-3, 3, 0)
    assert best.mean == pytest.approx(0.98)
    half = 4.303 * statistics.stdev([0.99, 0.98, 0.97]) / math.sqrt(3)
    assert best.interval == pytest.approx((0.98 - half, min(1.0, 0.98 + half)))
    assert best.lock_in == 1
    assert best.window == (1e-3, 3e-3)
    assert best.decades == pytest.approx(math.log10(3))
    assert (other.best_rate, other.lock_in, other.window) == (3e-3, 0, None)
    half = 4.303 * statistics.stdev([0.2, 0.45, 0.3]) / math.sqrt(3)
    assert other.interval == pytest.approx((0.95 / 3 - half, 0.95 / 3 + half))
    assert math.isnan(other.decades)
    assert best.rates == pytest.approx({1e-3: 1.93 / 3, 3e-3: 0.98, 1e-2: 1.45 / 3})


def test_strings_and_another_threshold(write, tmp_path):
    grid(write, LOW, HIGH)
    told = found(tmp_path, measure="string", threshold=0.96)
    assert told.arms[0].mean == pytest.approx((0.99**2 + 0.98**2 + 0.97**2) / 3)
    assert told.arms[0].lock_in == pytest.approx(2 / 3)


def test_a_difference_that_seeds_explain_has_no_winner(write, tmp_path):
    """0.98 against 0.6 ± 0.26 of three seeds: t = 2.5 with 2 degrees of freedom, 4.3 is needed."""
    grid(write, [[0.5, 0.9, 0.4]] * 3, HIGH)
    told = found(tmp_path)
    assert told.winner is None
    assert told.verdict == "no winner: mimetic and default differ by no more than seeds do"


def test_the_edge_of_the_grid_is_told(write, tmp_path):
    grid(write, LOW, [*HIGH[1:], [0.999, 0.998, 0.997]])
    assert found(tmp_path).verdict.endswith("learning rate 0.01, the edge of the grid: widen it")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"rate": 3e-2}, "mimetic and default were swept over different learning rates"),
        ({"seed": 7}, "mimetic and default were swept over different seeds"),
        ({"batch": 32}, "mimetic and default were swept over different tasks, models or training"),
        ({"state": "running", "arm": "default", "init": "mamba-ssm", "seed": 3}, "seeds"),
    ],
)
def test_unfair_grids_have_no_winner(write, tmp_path, more, why):
    grid(write, LOW, HIGH)
    more = {"init": "mimetic", "rate": 1e-3, "seed": 0, "char": 1.0} | more
    write(more.pop("init"), more.pop("rate"), more.pop("seed"), more.pop("char"), **more)
    told = found(tmp_path)
    assert told.winner is None
    assert told.verdict.startswith("no winner: ")
    names = sorted(why.split(" were ")[0].split(" and "))
    assert why.split(" were ")[-1] in told.verdict
    assert all(name in told.verdict for name in names)


def test_a_missing_cell_an_unended_run_and_one_seed_have_no_winner(write, tmp_path):
    grid(write, LOW, HIGH)
    gone = next(p for p in find_runs(tmp_path) if open_run(p).learning_rate == 1e-3)
    (gone / "metrics.jsonl").unlink()
    assert "one run for each learning rate and seed" in found(tmp_path).verdict
    (gone / "metrics.jsonl").touch()
    (gone / "status.json").write_text('{"state": "running"}')
    assert "1 runs have not ended" in found(tmp_path).verdict


def test_one_seed_says_nothing_of_the_spread(write, tmp_path):
    grid(write, [[0.1]] * 3, [[0.9]] * 3)
    told = found(tmp_path)
    assert "one seed" in told.verdict
    assert math.isnan(told.arms[0].interval[0])


def test_a_run_that_failed_counts_as_nothing_learned(write, tmp_path):
    for seed in (0, 1):
        write("mamba-ssm", 1e-3, seed, 0.8)
        write("mimetic", 1e-3, seed, 0.99, state="done" if seed else "failed")
    told = found(tmp_path)
    mimetic = next(arm for arm in told.arms if arm.arm == "mimetic")
    assert (mimetic.mean, mimetic.failed) == (pytest.approx(0.495), 1)


def test_arms_with_nothing_measured_there(write, tmp_path):
    grid(write, LOW, HIGH)
    with pytest.raises(UsageError, match="--length 30: no run was measured at it; measured: 20"):
        found(tmp_path, length=30)
    with pytest.raises(UsageError, match="there is no run"):
        compare([])


def test_every_field_of_a_start_is_one_of_the_config():
    from ssmlens.training import compare as module

    assert set(module._START) <= {field.name for field in dataclasses.fields(TrainConfig)}
