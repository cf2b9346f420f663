"""Comparisons: what is best, how sure that is, and when no winner may be called."""

import json
import math
import re
import statistics
from random import Random

import pytest

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.runs import statistics as statistics_module
from ssmlens.runs.compare import compare
from ssmlens.runs.run import find_runs, open_run
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


STEADY = [[0.92, 0.9, 0.91], [0.99, 0.98, 0.97], [0.3, 0.2, 0.25]]


def test_a_fair_comparison_has_a_winner(write, tmp_path):
    grid(write, LOW, STEADY)
    told = found(tmp_path)
    assert told.winner == "mimetic"
    assert told.verdict == "mimetic wins, in the mean over all learning rates"
    best, other = told.arms
    assert (best.arm, best.best_rate, best.seeds, best.failed) == ("mimetic", 3e-3, 3, 0)
    by_seed = [statistics.fmean(column) for column in zip(*STEADY, strict=True)]
    assert list(best.by_seed.values()) == pytest.approx(by_seed)
    assert best.overall == pytest.approx(statistics.fmean(by_seed))
    half = 4.303 * statistics.stdev(by_seed) / math.sqrt(3)
    ends = best.overall - half, best.overall + half
    assert best.overall_interval == pytest.approx(ends, rel=1e-4)
    assert best.overall_spread == pytest.approx((min(by_seed), max(by_seed)))
    assert best.best == pytest.approx(0.98)
    half = 4.303 * statistics.stdev([0.99, 0.98, 0.97]) / math.sqrt(3)
    assert best.best_interval == pytest.approx((0.98 - half, min(1.0, 0.98 + half)), rel=1e-4)
    assert best.lock_in == 1
    assert best.window == (1e-3, 3e-3)
    assert best.decades == pytest.approx(math.log10(3))
    assert best.cut_off, "no lower rate was tried"
    assert best.edges == ()
    assert not other.cut_off
    assert (other.best_rate, other.lock_in, other.window) == (3e-3, 0, None)
    half = 4.303 * statistics.stdev([0.2, 0.45, 0.3]) / math.sqrt(3)
    assert other.best_interval == pytest.approx((0.95 / 3 - half, 0.95 / 3 + half), abs=1e-4)
    assert math.isnan(other.decades)
    rates = {1e-3: 2.73 / 3, 3e-3: 0.98, 1e-2: 0.25}
    assert best.rates == pytest.approx(rates)


def test_arms_are_judged_over_all_rates_though_another_has_the_best_one(write, tmp_path):
    grid(write, [[0.9, 0.91, 0.92]] * 3, [[0.1, 0.1, 0.1], [0.99, 0.99, 0.99], [0.1, 0.1, 0.1]])
    told = found(tmp_path)
    assert told.winner == "default"
    assert [arm.best for arm in told.arms] == pytest.approx([0.91, 0.99])


def test_each_seed_is_told_at_the_rate_that_the_others_chose(write, tmp_path):
    """One seed is best at 3e-3 by luck: it alone would choose that rate, and is the one that is not told there."""
    values = [[0.6, 0.6, 0.6], [0.95, 0.5, 0.5], [0.1, 0.1, 0.1]]
    for rate, by_seed in zip(RATES, values, strict=True):
        for seed, char in enumerate(by_seed):
            write("mimetic", rate, seed, char)
    (arm,) = found(tmp_path).arms
    assert arm.held_out
    assert arm.chosen == {0: 1e-3, 1: 3e-3, 2: 3e-3}
    assert arm.best == pytest.approx((0.6 + 0.5 + 0.5) / 3)
    assert arm.best_rate == 3e-3, "of all seeds together"


def test_one_arm_has_no_winner(write, tmp_path):
    for rate in RATES:
        for seed in (0, 1):
            write("mimetic", rate, seed, 0.9 + seed / 100)
    told = found(tmp_path)
    assert (told.winner, told.verdict) == (None, "no winner: there is one arm")
    assert told.arms[0].held_out, "each of two seeds has another that chooses its rate"
    assert told.notes == ("best rate at the edge of the grid: mimetic (0.001); widen the grid",)


def leave_one_out(grid, loss):
    """By hand: {seed: (rate, value)} of {(rate, seed): value}."""
    rates = sorted({rate for rate, _ in grid})
    seeds = sorted({seed for _, seed in grid})
    told = {}
    for held in seeds:
        merits = []
        for rate in rates:
            there = [grid[rate, s] for s in seeds if s != held and grid.get((rate, s)) is not None]
            lost = [loss[rate, s] for s in seeds if s != held and grid.get((rate, s)) is not None]
            if there:
                merits.append((statistics.fmean(there), -statistics.fmean(lost), -rate))
        if merits and grid.get((-max(merits)[2], held)) is not None:
            told[held] = -max(merits)[2], grid[-max(merits)[2], held]
    return told


@pytest.mark.parametrize("seed", range(6))
def test_rates_are_chosen_as_by_hand_with_ties_and_cells_that_are_missing(write, tmp_path, seed):
    random = Random(seed)
    cells = {}
    loss = {}
    for rate in RATES:
        for run in range(4):
            missing = random.random() < 0.25
            cells[rate, run] = None if missing else random.choice([0.2, 0.4, 0.8, 0.8])
            loss[rate, run] = random.choice([0.1, 0.2])
            write("mimetic", rate, run, cells[rate, run], state="running", loss=loss[rate, run])
    (arm,) = found(tmp_path).arms
    expected = leave_one_out(cells, loss)
    assert arm.chosen == {held: rate for held, (rate, _) in expected.items()}
    assert arm.best == pytest.approx(statistics.fmean(value for _, value in expected.values()))


def test_a_seed_that_is_not_measured_yet_is_missing_and_not_0(write, tmp_path):
    """Counted as 0, 3e-3 would come to .45 and 1e-3, at .6, would be the best rate."""
    for seed in (0, 1):
        write("mimetic", 1e-3, seed, 0.6)
        write("mimetic", 3e-3, seed, None if seed else 0.9, state="running" if seed else "done")
    (arm,) = found(tmp_path).arms
    assert (arm.best_rate, arm.rates) == (3e-3, {1e-3: 0.6, 3e-3: 0.9})
    assert arm.overall == pytest.approx(0.75)
    assert arm.chosen == {0: 1e-3}, "seed 1 has no 3e-3, which seed 0 chose for it"


@pytest.mark.parametrize("count", [2, 3])
def test_with_one_seed_its_own_best_rate_is_told_and_said(write, tmp_path, count):
    for rate, char in zip(RATES[:count], (0.1, 0.95, 0.2), strict=False):
        write("mimetic", rate, 0, char)
    told = found(tmp_path)
    (arm,) = told.arms
    assert (arm.best, arm.held_out, arm.chosen) == (0.95, False, {0: 3e-3})
    *edge, own = told.notes
    assert own == "with one seed there is none to leave out: its best rate is its own"
    assert len(edge) == (count == 2)


def test_equal_rates_with_equal_losses_are_told_apart_by_the_lowest(write, tmp_path):
    for rate in (1e-2, 3e-3):
        for seed in (0, 1):
            write("mimetic", rate, seed, 1.0, loss=0.1)
    (arm,) = found(tmp_path).arms
    assert (arm.best_rate, arm.chosen) == (3e-3, {0: 3e-3, 1: 3e-3})


def test_strings_and_another_threshold(write, tmp_path):
    grid(write, LOW, HIGH)
    told = found(tmp_path, measure="string", threshold=0.96)
    assert told.arms[0].best == pytest.approx((0.99**2 + 0.98**2 + 0.97**2) / 3)
    assert told.arms[0].lock_in == pytest.approx(2 / 3)


def test_a_measure_without_words_can_be_compared(write, tmp_path):
    for rate, char in zip(RATES, (0.1, 0.95, 0.2), strict=True):
        folder = write("mimetic", rate, 0, char)
        with (folder / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": 5, "split": "eval", "length": 20, "f1": rate}) + "\n")
    assert found(tmp_path, measure="f1").arms[0].best_rate == 1e-2
    with pytest.raises(UsageError, match="loss is no accuracy; measured: char, string, f1"):
        found(tmp_path, measure="loss")
    with pytest.raises(UsageError, match="no run has measured f2; measured: char, string, f1"):
        found(tmp_path, measure="f2")


def test_folders_are_compared_as_their_runs_are(write, tmp_path):
    grid(write, LOW, HIGH)
    paths = ssmlens.find_runs(tmp_path)
    assert repr(ssmlens.compare(paths)) == repr(ssmlens.compare(list(map(ssmlens.open_run, paths))))


def test_a_difference_that_seeds_explain_has_no_winner(write, tmp_path):
    """0.7 ± 0.26 against 0.6 ± 0.26 of three seeds."""
    grid(write, [[0.5, 0.9, 0.4]] * 3, HIGH)
    told = found(tmp_path)
    assert told.winner is None
    assert told.verdict == "no winner: mimetic and default differ by no more than seeds do"


def test_every_arm_whose_best_rate_is_at_the_edge_of_the_grid_is_named(write, tmp_path):
    grid(write, [*LOW[1:], [0.1, 0.1, 0.1]], [*HIGH[1:], [0.999, 0.998, 0.997]])
    told = found(tmp_path)
    assert [arm.edges for arm in told.arms] == [(1e-2,), (1e-3,)]
    edge = "best rate at the edge of the grid: mimetic (0.01), default (0.001); widen the grid"
    assert told.notes == (edge,)


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
    assert math.isnan(told.arms[0].overall_interval[0])


def test_a_run_that_failed_counts_as_nothing_learned(write, tmp_path):
    for seed in (0, 1):
        write("mamba-ssm", 1e-3, seed, 0.8)
        write("mimetic", 1e-3, seed, 0.99, state="done" if seed else "failed")
    told = found(tmp_path)
    mimetic = next(arm for arm in told.arms if arm.arm == "mimetic")
    assert (mimetic.overall, mimetic.failed) == (pytest.approx(0.495), 1)


def test_arms_with_nothing_measured_there(write, tmp_path):
    grid(write, LOW, HIGH)
    with pytest.raises(UsageError, match="`length` 30: no run was measured at it; measured: 20"):
        found(tmp_path, length=30)
    with pytest.raises(UsageError, match="there is no run"):
        compare([])


def test_rates_are_chosen_at_the_training_length_and_reported_at_another(write, tmp_path):
    """1e-3 is best at 20 and 1e-2 at 40: choosing where one reports would flatter."""
    at_20, at_40 = (0.99, 0.5, 0.9), (0.2, 0.3, 0.8)
    for rate, char, twice in zip(RATES, at_20, at_40, strict=True):
        for seed in (0, 1):
            write("mimetic", rate, seed, char, twice=twice + seed / 100)
    (arm,) = found(tmp_path, length=40).arms
    assert (arm.best_rate, arm.best) == (1e-3, pytest.approx(0.205))
    assert arm.overall == pytest.approx((0.205 + 0.305 + 0.805) / 3)
    told = found(tmp_path, length=40, choose_at=40)
    assert (told.chosen_at, told.arms[0].best_rate) == (40, 1e-2)
    with pytest.raises(UsageError, match="`choose_at` 30: no run was measured at it"):
        found(tmp_path, choose_at=30)


def test_of_rates_that_are_equal_the_one_with_the_least_loss_is_best(write, tmp_path):
    for rate, loss in zip(RATES, (0.3, 0.1, 0.2), strict=True):
        write("mimetic", rate, 0, 1.0, loss=loss)
    assert found(tmp_path).arms[0].best_rate == 3e-3


def test_what_no_run_measured_is_not_taken_as_nothing_right(write, tmp_path):
    grid(write, LOW, HIGH)
    with pytest.raises(UsageError, match="train with `free_running`"):
        found(tmp_path, measure="char_free")


def area_below(t, freedom, step=1e-3):
    """The area under Student's density from -t to t, by Simpson's rule."""
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    constant /= math.sqrt(freedom * math.pi)
    count = 2 * math.ceil(t / step)
    at = [t * i / count for i in range(count + 1)]
    f = [constant * (1 + x * x / freedom) ** (-(freedom + 1) / 2) for x in at]
    return 2 * (t / count / 3) * (f[0] + f[-1] + 4 * sum(f[1:-1:2]) + 2 * sum(f[2:-1:2]))


@pytest.mark.parametrize("count", [2, 3, 5, 10, 31, 61])
def test_intervals_are_those_of_students_t(count):
    values = [0.5 + 0.01 * (-1) ** k for k in range(count)]
    low, high = statistics_module.interval(values)
    t = (high - low) / 2 / (statistics.stdev(values) / math.sqrt(count))
    assert area_below(t, count - 1) == pytest.approx(0.95, abs=5e-5)


@pytest.mark.parametrize("low", [0.72, 0.74, 0.75, 0.76, 0.78])
def test_welchs_test_at_its_edge(write, tmp_path, low):
    """Two seeds a side, deviations .0283 and .0424: 1.74 degrees of freedom by Welch and Satterthwaite."""
    for seed in (0, 1):
        write("mimetic", 1e-3, seed, 0.9 + 0.04 * seed)
        write("mamba-ssm", 1e-3, seed, low + 0.06 * seed)
    a, b = 0.04**2 / 4, 0.06**2 / 4  # variance of two values over two
    freedom = (a + b) ** 2 / (a**2 + b**2)
    assert freedom == pytest.approx(1.742, abs=1e-3)
    t = (0.92 - low - 0.03) / math.sqrt(a + b)
    ahead = area_below(t, freedom) > 0.95
    assert (found(tmp_path).winner == "mimetic") == ahead


def test_welchs_test_of_seeds_that_do_not_scatter(write, tmp_path):
    assert statistics_module.is_above([0.5, 0.5], [0.4, 0.4])
    assert not statistics_module.is_above([0.5, 0.5], [0.5, 0.5])
    assert not statistics_module.is_above([0.4, 0.5], [0.5, 0.6])


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
