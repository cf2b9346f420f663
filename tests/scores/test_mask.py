import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_scores import mask_ones, memory_length


def random_mask(tokens, seed=0):
    """exp(A (S_i − S_j)) averaged over a few decays, from its definition."""
    rng = np.random.default_rng(seed)
    total = np.cumsum(rng.uniform(0.1, 1.0, tokens))
    decays = rng.uniform(0.01, 1.0, 5)
    return np.array(
        [
            [
                np.mean(np.exp(-decays * (total[i] - total[j]))) if j <= i else 0.0
                for j in range(tokens)
            ]
            for i in range(tokens)
        ]
    )


@pytest.mark.parametrize("tokens", [1, 2, 5, 8, 31])
def test_mask_ones_is_that_of_a_double_loop(tokens):
    mask = random_mask(tokens)
    pairs = [mask[i, j] for i in range(tokens) for j in range(i + 1)]
    assert mask_ones(mask) == pytest.approx(math.fsum(pairs) / len(pairs), rel=1e-12)


@pytest.mark.parametrize(("tokens", "late"), [(1, [0]), (2, [1]), (5, [3, 4]), (8, [6, 7])])
def test_memory_length_is_the_mean_of_the_last_quarter_of_queries(tokens, late):
    mask = random_mask(tokens)
    expected = sum(mask[i, j] for i in late for j in range(i + 1)) / len(late)
    assert memory_length(mask) == pytest.approx(expected, rel=1e-12)


def test_a_layer_that_forgets_nothing():
    assert mask_ones(np.tri(64, dtype=np.float32)) == 1
    assert memory_length(np.tri(64, dtype=np.float32)) == pytest.approx(56.5)


def test_a_layer_that_forgets_at_once():
    assert memory_length(np.eye(64)) == 1
    assert mask_ones(np.eye(64)) == pytest.approx(2 / 65)


def test_float32_masks_are_summed_in_float64():
    mask = random_mask(150).astype(np.float32)
    exact = math.fsum(float(v) for v in mask[np.tri(150, dtype=bool)]) / (150 * 151 / 2)
    assert mask_ones(mask) == pytest.approx(exact, rel=1e-12)


@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 30))
def test_values_stay_in_range(seed, tokens):
    mask = random_mask(tokens, seed)
    assert 0 < mask_ones(mask) <= 1
    assert 1 - 1e-12 <= memory_length(mask) <= tokens
