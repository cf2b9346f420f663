"""The maps by block recursion, against matrices made entry by entry in float64."""

import dataclasses

import pytest
import torch
from oracles import relative
from reference_scan import (
    reference_attention_mask,
    reference_channel_maps,
    reference_scan,
)

from ssmlens.errors import UsageError
from ssmlens.scan import decay_recurrence
from ssmlens.scan.hidden_attention import (
    attention_map,
    attention_map_and_mask,
    attention_mask,
    channel_agreement,
    channel_maps,
)
from ssmlens.scan.operators import decay_scan
from ssmlens.scan.operators.decay_scan import ScanOperands

SHAPES = [
    # batch, tokens, heads, A_state, groups, state
    (1, 1, 3, 4, 1, 4),
    (1, 2, 3, 4, 1, 4),
    (2, 5, 4, 3, 2, 3),
    (1, 17, 20, 16, 1, 16),
    (2, 33, 6, 1, 3, 8),
    (1, 64, 2, 1, 1, 5),
    (1, 65, 34, 16, 2, 16),
    (3, 31, 1, 1, 1, 1),
    # A_state 0: the decay depends on the data, and a token reads its own write by another weight (Mamba-3)
    (2, 1, 2, 0, 2, 3),
    (2, 33, 4, 0, 4, 8),
    (1, 70, 6, 0, 2, 5),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_channel_maps_equal_the_definition(random_operands, shape):
    operands = random_operands(*shape)
    assert relative(channel_maps(operands), reference_channel_maps(operands)) < 2e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e3])
def test_map_and_mask_equal_the_definition(random_operands, shape, scale):
    operands = random_operands(*shape, scale=scale)
    got_map, got_mask = attention_map_and_mask(operands)
    assert relative(got_map, reference_channel_maps(operands).mean(1)) < 2e-6
    assert relative(got_mask, reference_attention_mask(operands)) < 2e-6
    assert relative(attention_map(operands), got_map.double()) < 1e-6
    assert relative(attention_mask(operands), got_mask.double()) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_a_map_times_x_is_what_the_scan_computes(random_operands, shape):
    operands = random_operands(*shape)
    assert operands.x is not None
    assert operands.D is not None
    maps = channel_maps(operands.map(lambda t: t.double()))
    y = (
        torch.einsum("bhij,bjhp->bihp", maps, operands.x.double())
        + operands.D * operands.x.double()
    )
    assert relative(y, reference_scan(operands)) < 1e-12


def test_nothing_is_above_the_diagonal(random_operands):
    operands = random_operands(2, 37, 6, 4, 2, 4)
    for maps in (channel_maps(operands), *attention_map_and_mask(operands)):
        assert torch.equal(maps, maps.tril())


def test_float64_operands_give_float64_maps(random_operands):
    operands = random_operands(1, 129, 5, 4, 1, 4).map(lambda t: t.double())
    assert relative(attention_map(operands), reference_channel_maps(operands).mean(1)) < 1e-13


def test_chosen_channels_come_in_the_order_asked_for(random_operands):
    operands = random_operands(2, 19, 6, 1, 3, 4)
    everything = channel_maps(operands)
    torch.testing.assert_close(channel_maps(operands, [5, 0, 0]), everything[:, [5, 0, 0]])
    assert channel_maps(operands, []).shape == (2, 0, 19, 19)


def test_a_constant_step_does_not_drift_over_many_tokens():
    """Ā within a rounding error of 1: products of rounded Ā would drift by 1e-5 over a thousand tokens."""
    tokens = 1023
    operands = ScanOperands(
        delta=torch.full((1, tokens, 1), 1e-3),
        A=torch.tensor([[-0.0123]]),
        B=torch.ones(1, tokens, 1, 1),
        C=torch.ones(1, tokens, 1, 1),
    )
    lag = torch.arange(tokens).double()
    wanted = torch.exp(
        -operands.A.double().abs() * operands.delta.double()[0, 0, 0] * lag
    ).squeeze()
    got = attention_mask(operands)[0, -1].flip(0).double()
    assert float((got - wanted).abs().max()) < 1.5e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_agreement_is_the_energy_that_averaging_keeps(random_operands, shape):
    operands = random_operands(*shape)
    maps = reference_channel_maps(operands)
    wanted = maps.mean(1).square().sum((1, 2)) / maps.square().sum((2, 3)).mean(1)
    torch.testing.assert_close(channel_agreement(operands).double(), wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("groups", "heads"), [(1, [0, 3, 6]), (2, [0, 5])])
def test_agreement_of_a_sample_is_that_of_evenly_spaced_heads(random_operands, groups, heads):
    operands = random_operands(1, 21, 10, 4, groups, 4)
    some = channel_agreement(operands.select_heads(heads))
    torch.testing.assert_close(channel_agreement(operands, sample=3), some)


def test_channels_with_one_map_agree_fully_and_opposite_ones_not_at_all(random_operands):
    one = random_operands(1, 15, 1, 4, 1, 4)
    same = one.select_heads([0, 0, 0])
    torch.testing.assert_close(channel_agreement(same), torch.ones(1))
    opposite = one.select_heads([0, 0])
    opposite.C[:, :, 1] *= -1
    assert float(channel_agreement(opposite)) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_the_probe_is_map_and_mask_times_a_vector(random_operands, shape):
    operands = random_operands(*shape).map(lambda t: t.double())
    vector = torch.randn(shape[0], shape[1], dtype=torch.float64)
    products = operands.probe(vector)
    seen, passed = products["map"], products["mask"]
    maps, mask = reference_channel_maps(operands).mean(1), reference_attention_mask(operands)
    torch.testing.assert_close(seen, (maps @ vector[..., None]).squeeze(-1))
    torch.testing.assert_close(passed, (mask @ vector[..., None]).squeeze(-1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk", [None, 16])
def test_both_probes_in_one_batch_are_those_one_by_one(random_operands, shape, chunk, monkeypatch):
    """As a GPU computes them: in one batch, and by chunks of tokens."""
    monkeypatch.setitem(decay_recurrence._RECURRENCE_TOKENS, "cpu", chunk)
    operands = random_operands(*shape).map(lambda t: t.double())
    vector = torch.randn(shape[0], shape[1], dtype=torch.float64)
    both = decay_scan._together(operands, operands._decay_alone())
    assert (both is None) == (shape[4] > 1 or shape[3] != shape[5])
    if both is not None:
        x = vector[:, :, None, None].expand(-1, -1, operands.heads, 1)
        of_map, of_mask = both(torch.cat([x, x])).mean((2, 3)).chunk(2)
        apart = operands.probe(vector)
        torch.testing.assert_close(of_map, apart["map"])
        torch.testing.assert_close(of_mask, apart["mask"])


@pytest.mark.parametrize("channel", [-1, 3, 99])
def test_a_channel_out_of_range_is_refused(random_operands, channel):
    with pytest.raises(UsageError, match=r"out of range: 0\.\.2"):
        channel_maps(random_operands(1, 5, 3, 2, 1, 2), [channel])


def test_a_nan_stays_in_its_rows_and_columns(random_operands):
    """A NaN written at token 7 is read from token 7 on; earlier queries are untouched."""
    operands = random_operands(1, 20, 4, 3, 1, 3)
    B = operands.B.clone()
    B[0, 7] = float("nan")
    got = attention_map(dataclasses.replace(operands, B=B))[0]
    clean = attention_map(operands)[0]
    assert got[7:, 7].isnan().all()
    got[:, 7] = clean[:, 7] = 0
    torch.testing.assert_close(got, clean)


@pytest.mark.parametrize("shape", [(2, 13, 4, 3, 2, 3), (1, 12, 6, 1, 2, 4)])
def test_gradients_are_those_of_the_definition(random_operands, shape):
    operands = random_operands(*shape).map(lambda t: t.double())
    leaves = {n: getattr(operands, n).clone().requires_grad_() for n in ("delta", "A", "B", "C")}
    live = ScanOperands(**leaves)
    got_map, got_mask = attention_map_and_mask(live)
    weight = torch.randn(got_map.shape, dtype=torch.float64)
    got = torch.autograd.grad((weight * (got_map + got_mask)).sum(), list(leaves.values()))
    definition = reference_means(live)
    wanted = torch.autograd.grad((weight * definition).sum(), list(leaves.values()))
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w)


def reference_means(o: ScanOperands) -> torch.Tensor:
    """Map + mask from one [head, state, query, key] tensor, differentiable."""
    S = o.delta.cumsum(1).transpose(1, 2)
    lag = S[..., :, None] - S[..., None, :]
    causal = torch.ones_like(lag[0, 0]).tril().bool()
    decay = torch.exp(
        (o.A[None, :, :, None, None] * lag[:, :, None]).masked_fill(~causal, -torch.inf)
    )
    B, C = (x.repeat_interleave(o.heads // o.groups, 2) for x in (o.B, o.C))
    M = torch.einsum(
        "bihn,bhnij,bjhn,bjh->bhij", C, decay.expand(-1, -1, o.states, -1, -1), B, o.delta
    )
    return M.mean(1) + decay.mean((1, 2))
