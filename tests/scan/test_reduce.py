"""Reduced maps, against sums over whole matrices made entry by entry in float64."""

import pytest
import torch
from oracles import blocks_by_definition
from reference_scan import reference_attention_mask, reference_channel_maps

from ssmlens.scan import spans
from ssmlens.scan.operators.softmax import SoftmaxWeights
from ssmlens.scan.reduce import reduced_maps

# tokens, heads, A_state, groups, state; A_state 0: Mamba-3
SHAPES = [
    (1, 3, 4, 1, 4),
    (7, 2, 3, 1, 3),
    (41, 6, 3, 2, 3),
    (48, 4, 1, 2, 5),
    (45, 4, 0, 4, 3),
]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(spans, "TILE_TOKENS", {"cpu": 16})


def close(got, wanted):
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [1, 4, 5, 64])
def test_reduced_maps_are_sums_over_whole_ones(random_operands, shape, block):
    operands = random_operands(1, *shape)
    tokens = shape[0]
    whole = reference_channel_maps(operands).mean(1)[0]
    mask = reference_attention_mask(operands)[0]
    target = torch.tensor([(5 * i) % (i + 1) if i % 3 else -1 for i in range(tokens)])
    vector, separator = torch.randn(tokens), torch.arange(tokens) % 5 == 0
    got = reduced_maps(operands, block, target, vector, separator)
    for name, matrix in (("map", whole), ("mask", mask)):
        mean, extreme = map(torch.from_numpy, blocks_by_definition(matrix, block))
        close(got.mean[name], mean)
        close(got.largest[name], extreme)
        close(got.product[name], matrix @ vector.double())
    close(got.row_magnitude, whole.abs().sum(1))
    close(got.mask_row_sum, mask.sum(1))
    close(
        got.lag_energy,
        torch.stack([whole.diagonal(-lag).square().mean() for lag in range(tokens)]),
    )
    looked = [float(whole[i, t].abs()) if t >= 0 else 0.0 for i, t in enumerate(target.tolist())]
    close(got.target_magnitude, torch.tensor(looked, dtype=torch.double))
    size = whole.abs().tolist()
    first, before, parts = (
        torch.tensor(values, dtype=torch.double)
        for values in (
            [row[0] for row in size],
            [row[i - 1] if i else 0.0 for i, row in enumerate(size)],
            [sum(row[j] for j in range(5, i, 5)) for i, row in enumerate(size)],
        )
    )
    close(got.first_magnitude, first)
    close(got.previous_magnitude, before)
    close(got.separator_magnitude, parts)
    assert got.reach.tolist() == [
        half_of(row[: i + 1]) if i >= tokens - -(-tokens // 4) else -1 for i, row in enumerate(size)
    ]


def half_of(row):
    """How many entries back from its end half of a row is reached."""
    return next(k for k in range(len(row)) if sum(row[len(row) - 1 - k :]) >= sum(row) / 2)


@pytest.mark.parametrize("lag", [0, 1, 7, 24])
def test_reach_is_the_lag_of_a_layer_that_copies(lag):
    """Over several tiles; a row of zeros reaches nowhere."""
    weights = torch.zeros(1, 2, 33, 33)
    for i in range(33):
        weights[0, :, i, max(0, i - lag)] = 1
    weights[0, :, 31] = 0
    got = reduced_maps(SoftmaxWeights(weights=weights), 4)
    assert got.reach.tolist() == [-1] * 24 + [lag] * 7 + [-1, lag]


def test_without_separators_nothing_falls_on_them(random_operands):
    got = reduced_maps(random_operands(1, 20, 2, 1, 1, 2), 4)
    assert torch.equal(got.separator_magnitude, torch.zeros(20))


def test_the_first_token_is_counted_once(random_operands):
    """A separator at the front is the first token, not a separator."""
    operands, first = random_operands(1, 20, 2, 1, 1, 2), torch.arange(20) == 0
    got = reduced_maps(operands, 4, separator=first)
    assert torch.equal(got.separator_magnitude, torch.zeros(20))
    assert got.first_magnitude.all()


def test_without_targets_nothing_is_looked_at(random_operands):
    got = reduced_maps(random_operands(1, 20, 2, 1, 1, 2), 4)
    assert torch.equal(got.target_magnitude, torch.zeros(20))


def test_a_nan_is_in_its_blocks_and_in_no_earlier_ones(random_operands):
    operands = random_operands(1, 40, 4, 3, 1, 3)
    operands.B[0, 25] = float("nan")
    got = reduced_maps(operands, 8)
    for array in (got.mean["map"], got.largest["map"]):
        assert array[3:, 3].isnan().all()
        assert not array[:3].isnan().any()
        assert not array[:, :3].isnan().any()
    assert got.row_magnitude.isnan().tolist() == [token >= 25 for token in range(40)]
    assert not got.first_magnitude.isnan().any()
    assert got.reach[25:].tolist() == [-1] * 15
    assert not got.mask_row_sum.isnan().any()


def test_one_sequence_and_a_block_of_tokens_are_asked_for(random_operands):
    with pytest.raises(ValueError, match="one sequence"):
        reduced_maps(random_operands(2, 5, 2, 1, 1, 2), 4)
    with pytest.raises(ValueError, match="≥ 1 token"):
        reduced_maps(random_operands(1, 5, 2, 1, 1, 2), 0)
