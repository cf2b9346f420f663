"""Comparisons: what is best, how sure that is, and when no winner may be called."""

import dataclasses
import json
import math
import re
import statistics

import pytest

from ssmlens.errors import UsageError
from ssmlens.store.runs import find_runs, open_run
from ssmlens.training import compare as module
from ssmlens.training.compare import compare
from ssmlens.training.config import TrainConfig

RATES = (1e-3, 3e-3, 1e-2)
ARMS = {"default": "mamba-ssm", "mimetic": "mimetic"}


@pytest.fixture
def write(tmp_path):
    """write(init, rate, seed, char, …): a run that ended so."""

    def run(init, rate, seed, char, state="done", twice=None, loss=None, **fields):
        config = TrainConfig(init=init, learning_rate=rate, seed=seed, **fields)
        folder = tmp_path / config.digest()[:12]
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        measured = [(n, value) for n, value in ((20, char), (40, twice)) if value is not None]
        (folder / "metrics.jsonl").write_text("".join(line(*it, loss) for it in measured))
        status = {"state": state, "step": 5, "steps": 5, "seconds": 1.0}
        (folder / "status.json").write_text(json.dumps(status))
        return folder

    return run


def line(length, char, loss):
    told = {"length": length, "char": char, "string": char**2, "loss": loss}
    return json.dumps({"step": 5, "split": "eval", **told}) + "\n"


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
    assert best.cut_off, "no lower rate was tried"
    assert not other.cut_off
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
    assert set(module.STARTS) <= {field.name for field in dataclasses.fields(TrainConfig)}


def test_rates_are_chosen_at_the_training_length_and_reported_at_another(write, tmp_path):
    """1e-3 is best at 20 and 1e-2 at 40: choosing where one reports would flatter."""
    at_20, at_40 = (0.99, 0.5, 0.9), (0.2, 0.3, 0.8)
    for rate, char, twice in zip(RATES, at_20, at_40, strict=True):
        for seed in (0, 1):
            write("mimetic", rate, seed, char, twice=twice + seed / 100)
    (arm,) = found(tmp_path, length=40).arms
    assert (arm.best_rate, arm.mean) == (1e-3, pytest.approx(0.205))
    assert arm.overall == pytest.approx((0.205 + 0.305 + 0.805) / 3)
    told = found(tmp_path, length=40, choose_at=40)
    assert (told.chosen_at, told.arms[0].best_rate) == (40, 1e-2)
    with pytest.raises(UsageError, match="--choose-at 30: no run was measured at it"):
        found(tmp_path, choose_at=30)


def test_of_rates_that_are_equal_the_one_with_the_least_loss_is_best(write, tmp_path):
    for rate, loss in zip(RATES, (0.3, 0.1, 0.2), strict=True):
        write("mimetic", rate, 0, 1.0, loss=loss)
    assert found(tmp_path).arms[0].best_rate == 3e-3


def test_what_no_run_measured_is_not_taken_as_nothing_right(write, tmp_path):
    grid(write, LOW, HIGH)
    with pytest.raises(UsageError, match="train with --free-running"):
        found(tmp_path, measure="char_free")


def area_below(t, freedom, step=1e-3):
    """The area under Student's density from -t to t, by Simpson's rule."""
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    constant /= math.sqrt(freedom * math.pi)
    count = 2 * math.ceil(t / step)
    at = [t * i / count for i in range(count + 1)]
    f = [constant * (1 + x * x / freedom) ** (-(freedom + 1) / 2) for x in at]
    return 2 * (t / count / 3) * (f[0] + f[-1] + 4 * sum(f[1:-1:2]) + 2 * sum(f[2:-1:2]))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 20, 30, 31, 40, 60, 500])
def test_quantiles_are_those_of_students_t(freedom):
    assert area_below(module._quantile(freedom), freedom) == pytest.approx(0.95, abs=5e-5)


def test_degrees_of_freedom_are_rounded_down_but_for_rounding():
    assert module._quantile(2.9) == module._quantile(2)
    assert module._quantile(3 - 1e-12) == module._quantile(3)
    assert module._quantile(0.9999999) == module._quantile(1)


@pytest.mark.parametrize(("low", "ahead"), [(0.42, True), (0.44, False)])
def test_welchs_test_at_its_edge(write, tmp_path, low, ahead):
    """Two seeds a side, deviations .0283 and .0424: t must exceed 4.303 (1.74 degrees, so 1: 12.706)."""
    for seed in (0, 1):
        write("mimetic", 1e-3, seed, 0.9 + 0.04 * seed)
        write("mamba-ssm", 1e-3, seed, low + 0.06 * seed)
    a, b = 0.04**2 / 4, 0.06**2 / 4  # variance of two values over two
    freedom = (a + b) ** 2 / (a**2 + b**2)
    t = (0.92 - low - 0.03) / math.sqrt(a + b)
    assert int(freedom) == 1
    assert (t > 12.706) == ahead
    assert (found(tmp_path).winner == "mimetic") == ahead


def test_a_window_within_the_grid_is_all_of_it(write, tmp_path):
    for rate, char in zip(RATES, (0.1, 0.95, 0.2), strict=True):
        write("mimetic", rate, 0, char)
    (arm,) = found(tmp_path).arms
    assert (arm.window, arm.decades, arm.cut_off) == ((3e-3, 3e-3), 0.0, False)


def test_of_many_arms_that_are_close_three_are_named(write, tmp_path):
    for seed in (0, 1):
        for arm in "abcdef":
            write("mamba-ssm", 1e-3, seed, 0.5 + seed / 10, arm=arm)
    names = "no winner: . and ., ., . and 2 more differ by no more than seeds do"
    assert re.fullmatch(names, found(tmp_path).verdict)
