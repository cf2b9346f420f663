"""The vector decay scan held against its definition, entry by entry and token by token in float64."""

import jaxtyping
import pytest
import torch
from operator_checks import (
    RECTANGLES,
    assert_edges,
    assert_matrices,
    assert_probe,
    assert_state,
    mixed_by,
)
from oracles import mixed_by_definition, relative

from ssmlens.errors import UsageError
from ssmlens.scan.hidden_attention import channel_maps
from ssmlens.scan.operators.vector_decay_scan import VectorDecayScan

HEADS, STATES = 4, 3


def operator(tokens, groups=2, batch=2, seed=0):
    torch.manual_seed(seed)
    B, C = torch.randn(2, batch, tokens, groups, STATES)
    return VectorDecayScan(
        B=B,
        C=C,
        log_decay=-torch.empty(batch, tokens, HEADS, STATES).uniform_(-7, 1).exp(),
        x=torch.randn(batch, tokens, HEADS, 2),
    )


def matrices(o):
    """M[h,i,j] = Σ_n C_i exp(G_i − G_j) B_j, and exp(G_i − G_j) averaged over states, one entry after another."""
    wide = o.heads // o.groups
    M, mask = torch.zeros(2, o.batch, o.heads, o.tokens, o.tokens, dtype=torch.double)
    for h in range(o.heads):
        B, C = o.B[:, :, h // wide].double(), o.C[:, :, h // wide].double()
        for i in range(o.tokens):
            passed = torch.ones(o.batch, STATES, dtype=torch.double)
            for j in range(i, -1, -1):
                M[:, h, i, j] = (C[:, i] * passed * B[:, j]).sum(1)
                mask[:, h, i, j] = passed.mean(1)
                passed = passed * o.log_decay[:, j, h].double().exp()
    return M, mask


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 2, 5, 64, 65])
def test_matrices_maps_and_recurrence_are_the_definition(tokens, groups):
    o = operator(tokens, groups)
    M, mask = matrices(o)
    assert_matrices(o, M, 1e-5)
    assert relative(mixed_by_definition(o), mixed_by(M, o.x)) < 1e-12
    everything = (0, tokens)
    means = o.means(("mask", "map"), everything, everything)
    assert relative(means[:, 0], mask.mean(1)) < 1e-6
    assert relative(means[:, 1], M.mean(1)) < 1e-5
    assert_probe(o, torch.randn(o.batch, tokens), "mask", mask, 1e-5)


@pytest.mark.parametrize(("queries", "keys"), RECTANGLES)
def test_any_rectangle(queries, keys):
    o = operator(9)
    M, mask = (whole[..., slice(*queries), slice(*keys)].float() for whole in matrices(o))
    torch.testing.assert_close(o.matrix([3, 1], queries, keys), M[:, [3, 1]])
    means = o.means(("map", "mask"), queries, keys)
    torch.testing.assert_close(means[:, 0], M.mean(1))
    torch.testing.assert_close(means[:, 1], mask.mean(1))


def test_without_tokens():
    o = operator(0)
    assert o(o.x).shape == (2, 0, HEADS, 2)
    assert o.matrix([0], (0, 0), (0, 0)).shape == (2, 1, 0, 0)


def test_a_token_that_forgets_everything():
    o = operator(7)
    o.log_decay[:, 4] = -torch.inf
    assert o.finite
    M = channel_maps(o)
    assert not M[:, :, 4:, :4].any()
    assert relative(M, matrices(o)[0]) < 1e-5
    assert relative(o(o.x), mixed_by_definition(o)) < 1e-6
    o.B[0, 0, 0, 0] = torch.nan
    assert not o.finite


def test_entries_and_sums_over_edges():
    o = operator(11)
    assert_edges(o, matrices(o)[0], 1e-5)


@pytest.mark.parametrize("since", [-1, 0, 3, 8])
def test_what_a_state_holds_is_what_later_tokens_read(since):
    empty = torch.zeros(2, HEADS, 2, STATES)
    assert_state(operator(9), since, empty, rtol=1e-4, atol=1e-5)


def test_a_state_before_the_first_token_decays_with_it():
    o = operator(3)
    state = torch.randn(2, HEADS, 2, STATES)
    read, kept = o.read_state(state, -1), state
    C = o.C.repeat_interleave(2, dim=2)
    for t in range(3):
        kept = kept * o.log_decay[:, t, :, None].exp()
        torch.testing.assert_close(read[:, t], (kept * C[:, t, :, None]).sum(3))


def test_gradients_reach_every_operand():
    o = operator(6)
    for tensor in o.arrays().values():
        tensor.requires_grad_()
    o(o.x).square().sum().backward()
    assert all(t.grad.isfinite().all() and t.grad.any() for t in o.arrays().values())


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("C", (..., slice(2)), "B is .*, but C is .*: they must have one shape"),
        ("log_decay", (slice(None), slice(1)), "the same prompts and tokens"),
        (
            "log_decay",
            (..., slice(1)),
            "log_decay has 1 states, but B has 3: they must have as many",
        ),
        ("log_decay", (slice(None), slice(None), slice(3)), "3 heads do not divide over 2 groups"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, cut, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which sees it first
    arrays = operator(3).arrays()
    with pytest.raises(ValueError, match=message):
        VectorDecayScan(**{**arrays, name: arrays[name][cut]})


def test_it_erases_nothing():
    with pytest.raises(UsageError, match="a vector decay scan has no 'erase'"):
        operator(3).agreement("erase")
