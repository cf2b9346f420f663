"""Random numbers, against SplitMix64's finaliser in Python's own integers and against their distributions."""

import math

import pytest
import torch

from ssmlens.errors import UsageError
from ssmlens.tasks.draws import Draws, batch_seed

MASK = 2**64 - 1


def mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def bits(seed, k):
    return mix((mix(seed & MASK) + mix(k * 0x9E3779B97F4A7C15 & MASK)) & MASK)


@pytest.mark.parametrize("seed", [0, 1, -1, 12345, 2**40 + 1, 2**63 - 1, -(2**63)])
def test_numbers_are_those_of_the_formula(seed):
    draws = Draws(seed)
    first, second = draws.integers(1000, (3, 7)), draws.uniform((5,))
    assert first.flatten().tolist() == [(bits(seed, k) >> 1) % 1000 for k in range(21)]
    expected = [((bits(seed, k) >> 11) + 0.5) / 2**53 for k in range(21, 26)]
    assert second.tolist() == expected


def test_the_last_bit_of_the_finaliser_is_splitmix64s():
    """The first three outputs of the published generator with state 0."""
    assert [mix(k * 0x9E3779B97F4A7C15 & MASK) for k in (1, 2, 3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@pytest.mark.parametrize("beyond", [2, 7, 64])
def test_integers_are_uniform(beyond):
    drawn = Draws(3).integers(beyond, (100_000,))
    counts = torch.bincount(drawn, minlength=beyond).double()
    expected = 100_000 / beyond
    chi = ((counts - expected) ** 2 / expected).sum()
    assert len(counts) == beyond
    assert chi < beyond - 1 + 5 * math.sqrt(2 * (beyond - 1))


def test_neighbouring_seeds_and_places_are_unrelated():
    rows = torch.stack([Draws(seed).uniform((2000,)) for seed in range(20)])
    correlation = torch.corrcoef(rows) - torch.eye(20)
    assert correlation.abs().max() < 0.12
    serial = torch.corrcoef(torch.stack([rows[:, :-1].flatten(), rows[:, 1:].flatten()]))[0, 1]
    assert abs(serial) < 0.02


def test_distinct_draws_every_arrangement_alike_often():
    drawn = Draws(5).distinct(4, 24_000, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    counts = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    assert sorted(counts.tolist())[:4] == [0] * 4
    assert (counts[counts > 0] - 2000).abs().max() < 200
    assert Draws(1).distinct(3, 2, 3).sort(dim=1).values.tolist() == [[0, 1, 2]] * 2


def test_batch_seeds_never_meet():
    seeds = {
        batch_seed(seed, step, held_out=held_out)
        for seed in (0, 1, 2**31 - 1)
        for step in (0, 1, 2**32 - 1)
        for held_out in (False, True)
    }
    assert len(seeds) == 18
    assert batch_seed(3, 5) == 3 * 2**32 + 5
    assert batch_seed(3, 5, held_out=True) == 2**63 + 3 * 2**32 + 5
    assert max(seeds) < 2**64
    for seed, step in ((-1, 0), (2**31, 0), (0, -1), (0, 2**32)):
        with pytest.raises(UsageError, match="must be in"):
            batch_seed(seed, step)


@pytest.mark.parametrize("seed", [2**64, 2**64 + 1, -(2**63) - 1])
def test_seeds_beyond_64_bits_are_refused(seed):
    with pytest.raises(UsageError, match="must fit into 64 bits"):
        Draws(seed)
