"""Rank statistics against ranks counted by hand, all choices enumerated, and textbook formulas."""

import itertools
import math

import numpy as np
import pytest

from ssmlens.runs import rank_statistics as of_ranks


def ranks(values):
    """1 for the smallest; ties share their mean rank; counted one by one."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def pearson(a, b):
    a, b = ([value - sum(v) / len(v) for value in v] for v in (a, b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def spearman(a, b):
    return pearson(ranks(a), ranks(b))


@pytest.fixture
def numbers():
    return np.random.default_rng(3)


@pytest.mark.parametrize("layers", [3, 8, 23])
def test_correlations_by_hand(numbers, layers):
    a, b = numbers.integers(0, 6, (2, 5, layers)).astype(float)
    a[:, 0], b[:, 0] = 9, 9  # no row is constant
    a[:, 1], b[:, 1] = -1, -1
    found = of_ranks.row_correlations(a, b)
    for row in range(5):
        expected = spearman(list(a[row]), list(b[row]))
        assert found[row] == pytest.approx(expected)
        assert of_ranks.correlation(a[row], b[row]) == pytest.approx(expected)


def test_what_does_not_vary_or_is_missing():
    rising, flat = np.arange(4.0), np.ones(4)
    assert math.isnan(of_ranks.correlation(rising, flat))
    assert math.isnan(of_ranks.row_correlations(rising[None], flat[None])[0])
    assert math.isnan(of_ranks.correlation(rising[:2], rising[:2]))
    holes = np.array([0.0, np.nan, 2.0, 3.0])
    assert of_ranks.correlation(holes, -rising) == pytest.approx(-1)
    assert math.isnan(of_ranks.correlation(holes[:3], rising[:3]))


def test_a_partial_correlation_of_one_covariate_is_the_textbooks(numbers):
    a, b, c = numbers.normal(size=(3, 12))
    b, a = b + c, a + 2 * c
    ab, ac, bc = spearman(a, b), spearman(a, c), spearman(b, c)
    expected = (ab - ac * bc) / math.sqrt((1 - ac**2) * (1 - bc**2))
    found = of_ranks.partial_correlations(a[None], b[None], c[None, None])
    assert found[0] == pytest.approx(expected)


def test_a_partial_correlation_of_two_covariates_by_recursion(numbers):
    a, b, c, d = numbers.normal(size=(4, 15))

    def given(x, y, z):
        return (x - y * z) / math.sqrt((1 - y**2) * (1 - z**2))

    r = {pair: spearman(*pair_values) for pair, pair_values in zip(
        ("ab", "ac", "ad", "bc", "bd", "cd"), itertools.combinations((a, b, c, d), 2), strict=True
    )}  # fmt: skip
    ab_c = given(r["ab"], r["ac"], r["bc"])
    ad_c, bd_c = given(r["ad"], r["ac"], r["cd"]), given(r["bd"], r["bc"], r["cd"])
    found = of_ranks.partial_correlations(a[None], b[None], np.stack([c, d])[:, None])
    assert found[0] == pytest.approx(given(ab_c, ad_c, bd_c))


def test_nothing_is_left_of_a_covariate_itself(numbers):
    a, b = numbers.normal(size=(2, 1, 9))
    assert math.isnan(of_ranks.partial_correlations(a, b, np.exp(a)[None])[0])


def test_pooled_by_fishers_z():
    z = (0.5 * math.log(1.7 / 0.3) + 0.5 * math.log(1.2 / 0.8)) / 2
    assert of_ranks.pooled([0.7, 0.2]) == pytest.approx(
        (math.exp(2 * z) - 1) / (math.exp(2 * z) + 1)
    )
    assert of_ranks.pooled([0.4]) == pytest.approx(0.4)
    assert math.isnan(of_ranks.pooled([]))
    assert math.isnan(of_ranks.pooled([0.4, math.nan]))


@pytest.mark.parametrize("layers", [4, 5])
def test_a_shift_test_of_two_teachers_by_enumeration(numbers, layers):
    teachers = [tuple(numbers.normal(size=(2, layers))) for _ in range(2)]

    def z(shifts):
        values = [
            spearman([*score[-k:], *score[:-k]] if k else list(score), list(outcome))
            for k, (score, outcome) in zip(shifts, teachers, strict=True)
        ]
        return sum(math.atanh(min(max(v, -0.999), 0.999)) for v in values)

    every = [z(shifts) for shifts in itertools.product(range(layers), repeat=2)]
    expected = sum(abs(v) >= abs(every[0]) - 1e-12 for v in every) / layers**2
    assert of_ranks.shift_test(teachers) == pytest.approx(expected)


def test_a_shift_test_of_one_teacher_is_at_least_one_in_its_layers():
    score = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.3])
    assert of_ranks.shift_test([(score, score)]) == pytest.approx(1 / 7)
    assert math.isnan(of_ranks.shift_test([(np.ones(5), np.arange(5.0))]))


@pytest.mark.parametrize("count", [1, 3, 9])
def test_regret_against_every_choice(numbers, count):
    score, outcome = numbers.normal(size=(2, 7))
    best = max(outcome)
    top = sorted(range(7), key=lambda k: -score[k])[:count]
    choices = list(itertools.combinations(outcome, min(count, 7)))
    by_chance = sum(map(max, choices)) / len(choices)
    found = of_ranks.top_regret(score, outcome, count)
    if count == 9:
        assert math.isnan(found), "all layers: nothing can be missed"
    else:
        assert found == pytest.approx((best - max(outcome[k] for k in top)) / (best - by_chance))


def test_no_regret_and_the_most():
    outcome = np.array([0.1, 0.2, 0.9, 0.3])
    assert of_ranks.top_regret(outcome, outcome, 1) == 0
    assert of_ranks.top_regret(-outcome, outcome, 1) == pytest.approx(0.8 / (0.9 - 0.375))
    assert math.isnan(of_ranks.top_regret(outcome, np.full(4, 0.5)))


def test_holm():
    found = of_ranks.holm([0.04, math.nan, 0.01, 0.03])
    assert found[0] == pytest.approx(0.06)
    assert math.isnan(found[1])
    assert found[2:] == [pytest.approx(0.03), pytest.approx(0.06)]
    assert of_ranks.holm([0.9, 0.8]) == [1.0, 1.0]
    assert of_ranks.holm([]) == []


def test_split_half_of_two_seeds(numbers):
    by_seed = numbers.normal(size=(9, 1)) + 0.5 * numbers.normal(size=(9, 2))
    r = pearson(list(by_seed[:, 0]), list(by_seed[:, 1]))
    assert of_ranks.split_half(by_seed) == pytest.approx(2 * r / (1 + r))
    assert math.isnan(of_ranks.split_half(by_seed[:, :1]))


def test_an_interval_is_narrow_where_all_agrees_and_wide_where_nothing_does(numbers):
    rising = np.arange(24.0)
    low, high = of_ranks.depth_interval([(rising, rising)], of_ranks.row_correlations, samples=300)
    assert low > 0.99
    assert high <= 1
    a, b = numbers.normal(size=(2, 24))
    low, high = of_ranks.depth_interval([(a, b)] * 2, of_ranks.row_correlations, samples=300)
    assert low < of_ranks.correlation(a, b) < high
    again = of_ranks.depth_interval([(a, b)] * 2, of_ranks.row_correlations, samples=300)
    assert (low, high) == again, "the same draws"


def test_an_interval_draws_teachers_too():
    """One teacher agrees, the other disagrees: samples of both, of one twice and of the other twice."""
    rising = np.arange(12.0)
    found = of_ranks.depth_interval(
        [(rising, rising), (rising, -rising)], of_ranks.row_correlations, samples=400
    )
    assert found == (pytest.approx(-0.999, abs=2e-3), pytest.approx(0.999, abs=2e-3))


@pytest.mark.parametrize("layers", [7, 8])
def test_stretches_are_neighbours(layers):
    seen = []

    def remember(values):
        seen.append(values)
        return np.zeros(len(values))

    of_ranks.depth_interval([(np.arange(float(layers)),)], remember, samples=50, block=3)
    (drawn,) = seen
    assert drawn.shape == (50, layers)
    within = [place for place in range(layers - 1) if place % 3 != 2]
    assert (np.diff(drawn)[:, within] == 1).all()
    assert set(drawn[:, 0]) == set(range(layers - 2)), "a stretch begins anywhere"


@pytest.mark.parametrize("missing", [49, 51])
def test_no_interval_where_most_samples_have_no_correlation(missing):
    def holes(values):
        return np.where(np.arange(100) < missing, np.nan, 0.5)

    low, high = of_ranks.depth_interval([(np.arange(6.0),)], holes, samples=100)
    if missing > 50:
        assert math.isnan(low)
        assert math.isnan(high)
    else:
        assert (low, high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_no_interval_where_nothing_varies():
    flat = np.ones(6)
    low, high = of_ranks.depth_interval(
        [(flat, np.arange(6.0))], of_ranks.row_correlations, samples=20
    )
    assert math.isnan(low)
    assert math.isnan(high)
