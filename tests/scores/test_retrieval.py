import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_scores import target_share


def brute(m, target):
    shares = []
    for i, t in enumerate(target):
        if t >= 0:
            row = [abs(float(x)) for x in m[i]]
            shares.append(row[t] / sum(row) if sum(row) else 0.0)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("tokens", [2, 3, 9, 32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_share_is_that_of_a_double_loop(tokens, dtype):
    rng = np.random.default_rng(tokens)
    m = np.tril(rng.standard_normal((tokens, tokens))).astype(dtype)
    target = np.array([rng.integers(-1, i + 1) for i in range(tokens)])
    target[-1] = 0
    assert target_share(m, target) == pytest.approx(brute(m, target), rel=1e-6)


def test_a_copying_map_scores_one_whatever_its_sign_or_scale():
    length = 5
    target = np.full(2 * length + 1, -1)
    target[length : 2 * length] = np.arange(length)
    m = np.eye(2 * length + 1, k=-length)
    assert target_share(m, target) == 1
    assert target_share(-3e-9 * m, target) == 1
    assert target_share(np.eye(2 * length + 1, k=-length + 1), target) == 0


def test_a_uniform_map_scores_what_chance_gives():
    target = np.array([-1, 0, 1, 2])
    assert target_share(np.tri(4), target) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)


def test_queries_without_a_target_do_not_count():
    m = np.tril(np.random.default_rng(0).standard_normal((6, 6)))
    changed = m.copy()
    changed[:4] *= 100 * np.arange(1, 5)[:, None] + np.arange(6)
    target = np.array([-1, -1, -1, -1, 2, 0])
    assert target_share(changed, target) == target_share(m, target)


def test_a_query_that_looks_nowhere_counts_as_zero():
    m = np.eye(4, k=-1)
    m[3] = 0
    assert target_share(m, np.arange(4) - 1) == pytest.approx(2 / 3)


def test_nothing_to_score():
    assert math.isnan(target_share(np.zeros((4, 4)), np.arange(4)))
    assert math.isnan(target_share(np.tri(4), np.full(4, -1)))


@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 25))
def test_it_is_a_share(seed, tokens):
    rng = np.random.default_rng(seed)
    m = np.tril(rng.standard_normal((tokens, tokens)))
    target = np.array([rng.integers(0, i + 1) for i in range(tokens)])
    assert 0 <= target_share(m, target) <= 1
