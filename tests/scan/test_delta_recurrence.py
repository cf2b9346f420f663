"""The recurrence of the delta rule by chunks, against the token-by-token one in float64."""

import pytest
import torch
from delta_rules import random_delta_rule
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import relative
from reference_delta import reference_delta_rule

from ssmlens.scan import delta_recurrence

LENGTHS = [1, 2, 5, 64, 65, 257]


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("strongest", [1.0, 2.0])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_it_is_the_recurrence(tokens, strongest, vector):
    o = random_delta_rule(3, tokens, 3, 3, 4, vector=vector, strongest=strongest)
    wanted = reference_delta_rule(o, o.x)
    assert relative(o(o.x), wanted) < 1e-10
    single = o.map(lambda t: t.float())
    assert single(single.x).dtype == torch.float32
    assert relative(single(single.x), wanted) < 1e-5


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(0, 70),
    groups=st.integers(1, 3),
    wide=st.integers(1, 3),
    state=st.integers(1, 6),
    headdim=st.integers(1, 3),
    vector=st.booleans(),
)
def test_any_shape(batch, tokens, groups, wide, state, headdim, vector):
    o = random_delta_rule(
        batch, tokens, groups * wide, groups, state, vector=vector, headdim=headdim
    )
    wanted = reference_delta_rule(o, o.x)
    assert o(o.x).shape == wanted.shape
    torch.testing.assert_close(o(o.x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("log_decay", [-50.0, -torch.inf, 0.0])
def test_decays_that_are_all_or_nothing(log_decay, vector):
    o = random_delta_rule(1, 70, 2, 1, 3, vector=vector, strongest=2.0)
    o.log_decay[:, 1::3] = log_decay
    got = o.map(lambda t: t.float())
    assert relative(got(got.x), reference_delta_rule(o, o.x)) < 1e-5


@pytest.mark.parametrize("vector", [False, True])
def test_gradients_are_finite_differences(vector, monkeypatch):
    monkeypatch.setattr(delta_recurrence, "_CHUNK_TOKENS", 4)
    monkeypatch.setattr(delta_recurrence, "_CHUNK_TOKENS_BY_STATE", 4)
    o = random_delta_rule(1, 7, 2, 1, 3, vector=vector)
    arrays = {name: x.requires_grad_() for name, x in o.arrays().items()}

    def run(x, *values):
        return type(o)(**dict(zip(arrays, values, strict=True)))(x)

    assert torch.autograd.gradcheck(run, (o.x.requires_grad_(), *arrays.values()))


def test_the_gradient_of_a_token_that_forgets_everything_is_finite():
    o = random_delta_rule(1, 20, 2, 2, 3)
    log_decay = o.log_decay.clone()
    log_decay[:, 7] = -torch.inf
    log_decay.requires_grad_()
    type(o)(o.q, o.k, o.beta, log_decay)(o.x).square().sum().backward()
    assert log_decay.grad.isfinite().all()


@pytest.mark.parametrize("vector", [False, True])
def test_rounding_does_not_pile_up_over_a_long_sequence(vector):
    o = random_delta_rule(1, 4096, 2, 2, 8, vector=vector, strongest=2.0)
    single = o.map(lambda t: t.float())
    assert relative(single(single.x), o(o.x)) < 1e-5


def test_a_value_that_is_not_a_number_is_passed_on_in_its_head():
    o = random_delta_rule(1, 70, 2, 2, 3)
    o.x[0, 40, 1] = torch.nan
    got = o(o.x)
    assert got[0, :, 0].isfinite().all()
    assert got[0, 40:, 1].isnan().all()
    o.beta[0, 0, 0] = torch.nan
    assert o(o.x)[0, :, 0].isnan().all()
