import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_scores import diagonal_sharpness, lag_energy

from ssmlens.scores.diagonal import sharpest_lag


def sub_diagonal(tokens, lag):
    return np.eye(tokens, k=-lag)


def recency(tokens, keep):
    """map[i, j] = keep^(i−j): what forgets at one rate and looks at nothing in particular."""
    i, j = np.indices((tokens, tokens))
    return np.where(j <= i, keep ** np.maximum(i - j, 0), 0.0)


def brute_energy(m):
    """e(ℓ) by a double loop, in plain Python numbers."""
    tokens = len(m)
    energies = []
    for lag in range(tokens):
        if lag > 0.75 * tokens:
            break
        squares = [float(m[i, i - lag]) ** 2 for i in range(lag, tokens)]
        energies.append(math.fsum(squares) / len(squares))
    return energies


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 7, 8, 33])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_energy_and_score_are_those_of_a_double_loop(tokens, dtype):
    m = np.tril(np.random.default_rng(tokens).standard_normal((tokens, tokens))).astype(dtype)
    expected = brute_energy(m)
    np.testing.assert_allclose(lag_energy(m), expected, rtol=1e-12)
    for first in (1, 2, 4):
        score = diagonal_sharpness(m, first)
        if tokens <= 2 * first:
            assert math.isnan(score)
        else:
            assert score == pytest.approx(max(expected[first:]) / sum(expected), rel=1e-12)


@pytest.mark.parametrize("lag", [4, 17, 40, 60])
def test_a_pure_sub_diagonal_scores_one_at_its_lag(lag):
    m = sub_diagonal(81, lag).astype(np.float32)
    assert diagonal_sharpness(m, 4) == 1
    assert sharpest_lag([lag_energy(m)], 4) == lag


def test_a_sub_diagonal_within_the_convolution_scores_nothing():
    assert diagonal_sharpness(sub_diagonal(81, 3), 4) == 0
    assert diagonal_sharpness(sub_diagonal(81, 3), 1) == 1


@pytest.mark.parametrize("tokens", [16, 64, 256])
def test_a_uniform_map_tends_to_nothing(tokens):
    score = diagonal_sharpness(np.tri(tokens), 4)
    assert score == pytest.approx(1 / (3 * tokens // 4 + 1))


@pytest.mark.parametrize("tokens", [64, 81, 300])
def test_a_first_token_column_scores_under_a_tenth(tokens):
    m = np.zeros((tokens, tokens))
    m[:, 0] = 1
    assert diagonal_sharpness(m, 4) < 0.1


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8, 0.8944, 0.95, 0.99])
@pytest.mark.parametrize("tokens", [64, 81, 300])
def test_a_recency_map_scores_under_a_tenth(tokens, keep):
    assert diagonal_sharpness(recency(tokens, keep), 4) < 0.1


@pytest.mark.parametrize("first_lag", [1, 2, 3, 4])
def test_the_bound_of_recency_maps_holds_and_is_reached(first_lag):
    bound = first_lag**first_lag / (first_lag + 1) ** (first_lag + 1)
    worst = max(
        diagonal_sharpness(recency(400, keep), first_lag) for keep in np.arange(0.3, 1, 0.01)
    )
    assert 0.99 * bound < worst <= bound + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_equal_energy_still_finds_the_lag(seed):
    tokens, lag = 81, 40
    signal = sub_diagonal(tokens, lag)
    noise = np.tril(np.random.default_rng(seed).standard_normal((tokens, tokens)))
    noise *= np.linalg.norm(signal) / np.linalg.norm(noise)
    m = signal + noise
    assert sharpest_lag([lag_energy(m)], 4) == lag
    assert diagonal_sharpness(m, 4) > 10 * diagonal_sharpness(noise, 4)


@given(
    scale=st.floats(1e-12, 1e12).flatmap(lambda s: st.sampled_from([s, -s])),
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(9, 40),
)
def test_scaling_changes_nothing_and_the_score_is_a_share(scale, seed, tokens):
    m = np.tril(np.random.default_rng(seed).standard_normal((tokens, tokens)))
    score = diagonal_sharpness(m, 4)
    assert 0 <= score <= 1
    assert diagonal_sharpness(scale * m, 4) == pytest.approx(score, rel=1e-9)


def test_what_lies_above_the_diagonal_is_not_read():
    m = np.random.default_rng(0).standard_normal((20, 20))
    assert diagonal_sharpness(m, 4) == diagonal_sharpness(np.tril(m), 4)


def test_a_zero_map_has_no_sharpness():
    assert math.isnan(diagonal_sharpness(np.zeros((16, 16)), 4))


def test_the_lag_is_of_the_average_over_prompts():
    rng = np.random.default_rng(3)
    prompts = [
        sub_diagonal(60, 30) + 2 * sub_diagonal(60, int(rng.integers(5, 25))) for _ in range(3)
    ]
    prompts = [0.5 * p + sub_diagonal(60, 30) for p in prompts]
    energies = [lag_energy(p) for p in prompts]
    mean = [sum(brute_energy(p)[lag] for p in prompts) / 3 for lag in range(46)]
    assert sharpest_lag(energies, 4) == 4 + int(np.argmax(mean[4:])) == 30


def test_prompts_of_unequal_length_are_averaged_with_missing_lags_as_zero():
    short, long = lag_energy(sub_diagonal(20, 10)), lag_energy(0.9 * sub_diagonal(60, 40))
    assert sharpest_lag([short, long], 4) == 10
    assert sharpest_lag([short, 2 * long], 4) == 40
