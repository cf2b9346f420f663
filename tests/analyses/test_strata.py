"""Effects by stratum: planted effects come back, and the exact test is the one by hand."""

import dataclasses
import itertools
import re
from statistics import fmean

import numpy as np
import pytest

from analyses.components import arms, strata, strata_report
from analyses.components.content import content_cells
from analyses.components.strata import (
    CONTRASTS,
    Contrast,
    Outcome,
    cells,
    effect,
    holm,
    permutation_p,
)
from analyses.results_file import runs_below
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path

RATES = (1e-3, 1e-2)


def write(out, config, measured, state="done"):
    """`measured`: {(split, length): {measure: value}}."""
    with RunFolder(run_path(out, config), config) as folder:
        for (split, length), values in measured.items():
            folder.measure(config.steps, split, length, **values)
        folder.write_status(state, config.steps, config.steps, 1.0)


def grid(seeds):
    return arms.configs(rates=RATES, seeds=seeds, generation="mamba1")


def by_hand(pairs):
    """All ways to deal, one by one."""

    def gap(a, b):
        return fmean(b) - fmean(a)

    ways = []
    for a, b in pairs:
        both = [*a, *b]
        dealt = []
        for chosen in itertools.combinations(range(len(both)), len(b)):
            rest = [both[k] for k in range(len(both)) if k not in chosen]
            dealt.append(gap(rest, [both[k] for k in chosen]))
        ways.append(dealt)
    observed = abs(sum(gap(a, b) for a, b in pairs))
    sums = [abs(sum(way)) for way in itertools.product(*ways)]
    return fmean(it >= observed - 1e-9 for it in sums)


@pytest.mark.parametrize("sizes", [[(5, 5)], [(3, 4), (2, 3)], [(2, 2), (3, 3), (2, 3)], [(1, 1)]])
@pytest.mark.parametrize("seed", range(4))
def test_the_exact_test_is_the_one_by_hand(sizes, seed):
    rng = np.random.default_rng(seed)
    pairs = [(rng.random(m).round(1), (rng.random(n) + 0.3).round(1)) for m, n in sizes]
    assert permutation_p(pairs) == pytest.approx(by_hand(pairs))


def test_the_least_p_of_five_against_five_and_of_equal_values():
    low, high = np.arange(5.0), np.arange(5.0) + 10
    assert permutation_p([(low, high)]) == pytest.approx(2 / 252)
    assert permutation_p([(high, low)] * 4) == pytest.approx(2 / 252**4)
    assert permutation_p([(np.ones(5), np.ones(5))] * 4) == 1


def test_the_interval_is_what_the_test_does_not_reject():
    rng = np.random.default_rng(1)
    rest = Contrast("BC", "with A", lambda arm: "A" in arm)
    values = {}
    for without, with_it in rest.pairs():
        values[without] = rng.normal(0.5, 0.05, 5)
        values[with_it] = rng.normal(0.7, 0.05, 5)
    found = effect(values, rest)
    assert found is not None
    assert found.pairs == 4
    assert found.interval[0] < 0.2 < found.interval[1]
    for shift, kept in ((found.interval[0], True), (found.interval[0] - 0.001, False)):
        moved = [(values[a], values[b] - shift) for a, b in rest.pairs()]
        assert (permutation_p(moved) > 0.05) == kept


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_strata_divide_the_arms():
    """Each component's strata have each of its eight pairs once."""
    for component in ("A", "delta", "BC", "conv"):
        pairs = [p for c in CONTRASTS if c.component == component for p in c.pairs()]
        assert len(pairs) == len(set(pairs)) == 8
        assert all(with_it - without == {component} for without, with_it in pairs)


def planted(tmp_path, seeds=(0, 1, 2), leave_out=0):
    """A adds .4; conv takes .2 with A, adds .1 with neither, nothing beside Δ; Δ without A leaves .05."""
    for config in grid(seeds)[: len(seeds) * 32 - leave_out]:
        has = set(config.components)
        char = 0.303 + 0.4 * ("A" in has) - 0.2 * ("conv" in has and "A" in has)
        char += 0.1 * (has == {"conv"} or has == {"conv", "BC"})
        char = 0.05 if "delta" in has and "A" not in has else char
        char += config.seed / 500 + 0.01 * (config.learning_rate == 1e-2)
        turned = 0.4 * char if "conv" in has else 0.0
        measured = {("eval", n): {"char": char * 50 / n, "string": 0.0} for n in (50, 100, 150)}
        for n in (50, 100, 150):
            measured["free", n] = {"char": char / 2, "string": 0.0}
            for gram in (4, 8):
                measured[f"duplicates-{gram}", n] = {"char": char - turned, "string": 0.0}
                measured[f"other-{gram}", n] = {"char": turned, "string": 0.0}
        write(tmp_path, config, measured)
    return runs_below(tmp_path)


def test_planted_effects_come_back_by_stratum(tmp_path):
    values = cells(planted(tmp_path), Outcome("char", 50))
    found = {(c.component, c.stratum): effect(values, c) for c in CONTRASTS}
    wanted = {
        ("conv", "with A"): -0.2,
        ("conv", "with neither A nor delta"): 0.1,
        ("conv", "with delta, without A"): 0.0,
        ("BC", "with A"): 0.0,
        ("delta", "with A"): 0.0,
        ("delta", "without A"): -0.253 - 0.05,
        ("A", "without delta"): (0.4 + 0.4 + 0.1 + 0.1) / 4,
    }
    for key, value in wanted.items():
        assert found[key].mean == pytest.approx(value), key
    assert values[frozenset()] == pytest.approx([0.308, 0.31, 0.312]), "the mean of both rates"


def test_content_of_arms_that_copy(tmp_path):
    found = content_cells(planted(tmp_path), 4, 100)
    assert set(found) == {arm for arm in found if "A" in arm}, "the others say too few letters"
    assert found[frozenset({"A", "conv"})] == pytest.approx([0.4] * 3)
    assert found[frozenset({"A"})] == pytest.approx([0.0] * 3)
    assert content_cells([], 4, 100) == {}


def test_tables(tmp_path):
    told = strata_report.tables(planted(tmp_path, leave_out=1))
    told = re.sub(" +", " ", told)  # cells are padded
    assert told.startswith(
        "64 runs of the seeds 0, 1, 0 failed, 64 examined; 31 runs of seeds that are not whole"
    )
    assert "| conv | with A | -0.100 |" in told, "of characters at 100"
    assert "| A+BC | 0.71 (0.71..0.71) | 0.35 (0.35..0.36) | 0.24 (" in told
    assert "| 4 | 100 | 0.000 | 0.400 | +0.400 |" in told


def test_tables_of_nothing_of_part_and_of_runs_without_exams(tmp_path):
    assert strata_report.tables([]) == (
        "0 runs of the seeds none, 0 failed, 0 examined. All numbers are means over all learning rates.\n"
    )
    for config in grid((0,)):
        write(tmp_path, config, {("eval", n): {"char": 0.5, "string": 0.1} for n in (50, 100, 150)})
    told = re.sub(" +", " ", strata_report.tables(runs_below(tmp_path)))
    assert "0 examined" in told
    assert "| default | 0.50 (0.50..0.50) |" in told
    assert "running freely at 50" not in told


def test_a_run_that_failed_counts_as_nothing_right(tmp_path):
    config = dataclasses.replace(grid((0,))[0])
    write(tmp_path, config, {("eval", 50): {"char": 0.9}}, "failed")
    (run,) = runs_below(tmp_path)
    assert strata.Outcome("char", 50).of(run) == 0
