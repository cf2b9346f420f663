import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmlens.scores import compute
from ssmlens.scores.bc import bc_correlation, bc_effective, bc_identity, bc_z


def weights(groups, states, inputs, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, groups, states, inputs))


def one_tap(groups, states, at, taps=4):
    """Taps as conv1d stores them, all on token t − at."""
    kernel = np.zeros((groups, states, taps))
    kernel[..., taps - 1 - at] = 1
    return kernel


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 6), (3, 5, 11), (2, 8, 3)])
def test_correlation_and_identity_are_those_of_the_full_product(shape):
    W_B, W_C = weights(*shape)
    correlation, identity = [], []
    for B, C in zip(W_B, W_C, strict=True):
        product = C.T @ B
        correlation.append(np.trace(product) / (np.linalg.norm(B) * np.linalg.norm(C)))
        identity.append(np.trace(product) / (math.sqrt(shape[1]) * np.linalg.norm(product)))
    assert bc_correlation(W_B, W_C) == pytest.approx(np.mean(correlation), rel=1e-12)
    assert bc_identity(W_B, W_C) == pytest.approx(np.mean(identity), rel=1e-9)


def test_planted_weights():
    W_B, W_C = weights(2, 8, 4096)
    assert bc_correlation(W_B, W_B) == pytest.approx(1)
    assert bc_correlation(W_B, -3 * W_B) == pytest.approx(-1)
    mimetic = 0.5 * (W_B + W_C)
    assert bc_correlation(W_B, mimetic) == pytest.approx(0.5**0.5, abs=0.01)
    rows = np.linalg.qr(np.random.default_rng(1).standard_normal((64, 8)))[0].T[None]
    assert bc_identity(rows, 5 * rows) == pytest.approx(1)
    assert bc_identity(rows, -rows) == pytest.approx(-1)
    assert bc_identity(rows, rows[:, ::-1]) == pytest.approx(0, abs=1e-12)


def test_z_is_standard_normal_under_independent_weights():
    shape = (2, 4, 16)
    zs = [bc_z(bc_correlation(*weights(*shape, seed)), *shape) for seed in range(400)]
    assert abs(np.mean(zs)) < 0.2
    assert np.std(zs) == pytest.approx(1, abs=0.15)


def brute_effective(W_B, W_C, conv_B, conv_C):
    """The highest over shifts r, tap by tap: κ[a] is the tap K−1−a of conv1d."""
    groups, states, taps = conv_B.shape
    sums = {}
    for r in range(-taps + 1, taps):
        ratios = []
        for g in range(groups):
            above = sum(
                float(W_B[g, n] @ W_C[g, n])
                * float(conv_C[g, n, taps - 1 - a])
                * float(conv_B[g, n, taps - 1 - (a - r)])
                for n in range(states)
                for a in range(taps)
                if 0 <= a - r < taps
            )
            norms = [
                sum(np.square(np.outer(conv[g, n], W[g, n])).sum() for n in range(states)) ** 0.5
                for W, conv in ((W_B, conv_B), (W_C, conv_C))
            ]
            ratios.append(above / (norms[0] * norms[1]))
        sums[r] = sum(ratios) / groups
    best = max(sums, key=lambda r: (round(sums[r], 12), -abs(r)))
    return sums[best], best


@pytest.mark.parametrize("shape", [(1, 4, 6, 4), (3, 5, 7, 3), (2, 6, 9, 1), (1, 1, 2, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_effective_is_that_of_loops_over_taps(shape, seed):
    groups, states, inputs, taps = shape
    W_B, W_C = weights(groups, states, inputs, seed)
    conv_B, conv_C = np.random.default_rng(seed + 100).standard_normal((2, groups, states, taps))
    got = bc_effective(W_B, W_C, conv_B, conv_C)
    value, shift = brute_effective(W_B, W_C, conv_B, conv_C)
    assert got.value == pytest.approx(value, rel=1e-12)
    assert got.shift == shift


@pytest.mark.parametrize(("read_at", "write_at"), [(0, 0), (0, 1), (3, 1), (2, 2), (0, 3)])
def test_effective_finds_a_planted_shift(read_at, write_at):
    """The query reads `read_at` tokens back, the key wrote `write_at` back: r is the difference."""
    W_B, _ = weights(2, 6, 40)
    got = bc_effective(W_B, W_B, one_tap(2, 6, write_at), one_tap(2, 6, read_at))
    assert got.value == pytest.approx(1)
    assert got.shift == read_at - write_at


def test_among_equal_shifts_the_nearest_is_taken():
    W_B, _ = weights(1, 3, 10)
    twice = one_tap(1, 3, at=0) + one_tap(1, 3, at=2)
    got = bc_effective(W_B, W_B, twice, one_tap(1, 3, at=0))
    assert got.value == pytest.approx(0.5**0.5)
    assert got.shift == 0


def test_effective_shift_is_the_lag_at_which_real_convolutions_match():
    """B and C from white noise as torch convolves it, and their correlation by lag i − j."""
    states, inputs, tokens = 8, 16, 20_000
    W_B = weights(1, states, inputs)[0]
    conv_B, conv_C = one_tap(1, states, at=2), one_tap(1, states, at=1)
    u = torch.randn(tokens, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def after_conv(kernel):
        rows = (u @ torch.tensor(W_B[0]).T).T[None]
        filtered = torch.nn.functional.conv1d(
            rows, torch.tensor(kernel[0])[:, None], padding=3, groups=states
        )
        return filtered[0, :, :tokens].T.numpy()

    B, C = after_conv(conv_B), after_conv(conv_C)
    by_lag = {r: np.mean(C[10:-10] * np.roll(B, r, axis=0)[10:-10]) for r in range(-3, 4)}
    assert max(by_lag, key=lambda r: by_lag[r]) == -1
    assert bc_effective(W_B, W_B, conv_B, conv_C).shift == -1


def test_one_tap_of_one_is_no_convolution():
    W_B, W_C = weights(3, 4, 9)
    ones = np.ones((3, 4, 1))
    value, shift = bc_effective(W_B, W_C, ones, ones)
    assert value == pytest.approx(bc_correlation(W_B, W_C), rel=1e-12)
    assert shift == 0


@given(seed=st.integers(0, 2**32 - 1), a=st.floats(1e-6, 1e6), b=st.floats(1e-6, 1e6))
def test_scaling_changes_nothing_and_values_are_correlations(seed, a, b):
    W_B, W_C = weights(2, 3, 5, seed)
    conv_B, conv_C = np.random.default_rng(seed).standard_normal((2, 2, 3, 4))
    for score in (
        lambda x, y: bc_correlation(x, y),
        lambda x, y: bc_identity(x, y),
        lambda x, y: bc_effective(x, y, a * conv_B, b * conv_C).value,
    ):
        value = score(W_B, W_C)
        assert -1 <= value <= 1
        assert score(a * W_B, b * W_C) == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_zero_weights_have_no_score():
    W_B, W_C = weights(2, 3, 5)
    W_B[1] = 0
    taps = np.ones((2, 3, 4))
    assert math.isnan(bc_correlation(W_B, W_C))
    assert math.isnan(bc_identity(W_B, W_C))
    assert math.isnan(bc_effective(W_B, W_C, taps, taps).value)
    assert math.isnan(bc_effective(W_C, W_C, taps, 0 * taps).value)


def test_weights_of_two_shapes_have_no_score_and_the_reason(make_capture):
    W_B, W_C = np.ones((2, 3, 5), np.float32), np.ones((2, 4, 5), np.float32)
    scores = compute(make_capture([{"W_B": W_B, "W_C": W_C}]))
    for name in ("bc_correlation", "bc_effective", "bc_identity"):
        assert np.isnan(scores[name]).all()
        reasons = set(scores["reason"].sel(score=name).values.ravel())
        assert reasons == {"W_B is [2, 3, 5] and W_C [2, 4, 5]: shapes differ"}
