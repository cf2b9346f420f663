"""The gated convolution held against its definition, entry by entry and token by token in float64."""

import dataclasses

import pytest
import torch
from operator_checks import RECTANGLES, assert_edges, assert_matrices, assert_state

from ssmlens.errors import UsageError
from ssmlens.scan.hidden_attention import channel_maps
from ssmlens.scan.operators.gated_convolution import GatedConvolution

HEADS = 6


def operator(tokens, taps=3, batch=2, heads=HEADS, seed=0):
    torch.manual_seed(seed)
    B, C = torch.randn(2, batch, tokens, heads, 1)
    return GatedConvolution(
        B=B,
        C=C,
        taps=torch.randn(heads, taps),
        bias=torch.randn(heads),
        x=torch.randn(batch, tokens, heads, 1),
    )


def matrices(o):
    """M[h,i,j] = C_i κ_{i−j} B_j, one entry after another."""
    M = torch.zeros(o.batch, o.heads, o.tokens, o.tokens, dtype=torch.double)
    kernel = o.taps.double().flip(1)
    for i in range(o.tokens):
        for j in range(max(0, i + 1 - kernel.shape[1]), i + 1):
            C, B = o.C[:, i, :, 0].double(), o.B[:, j, :, 0].double()
            M[:, :, i, j] = C * kernel[:, i - j] * B
    return M


@pytest.mark.parametrize("taps", [1, 3, 7])
@pytest.mark.parametrize("tokens", [1, 2, 5, 64, 65])
def test_matrices_maps_and_recurrence_are_the_definition(tokens, taps):
    o = operator(tokens, taps)
    assert_matrices(o, matrices(o), 1e-6)


def test_its_bias_is_read_through_the_gate_of_each_token():
    o = operator(5)
    wanted = o.C[..., 0] * o.bias
    assert torch.equal(o.offset, wanted.unsqueeze(3))
    assert dataclasses.replace(o, bias=None).offset is None


@pytest.mark.parametrize(("queries", "keys"), RECTANGLES)
def test_any_rectangle(queries, keys):
    o = operator(9)
    wanted = matrices(o)[..., slice(*queries), slice(*keys)]
    torch.testing.assert_close(o.matrix([4, 1], queries, keys), wanted[:, [4, 1]].float())
    torch.testing.assert_close(o.means(("map",), queries, keys)[:, 0], wanted.mean(1).float())


def test_without_tokens():
    o = operator(0)
    assert o(o.x).shape == (2, 0, HEADS, 1)
    assert o.matrix([0], (0, 0), (0, 0)).shape == (2, 1, 0, 0)


def test_entries_and_sums_over_edges():
    o = operator(11, taps=4)
    assert_edges(o, matrices(o), 1e-6)


@pytest.mark.parametrize("since", [-1, 0, 3, 8])
def test_what_a_state_holds_is_what_later_tokens_read(since):
    assert_state(operator(9, taps=4), since, torch.zeros(2, HEADS, 1, 4))


def test_a_state_before_the_first_token_is_read_through_the_taps():
    o = operator(3, taps=4)
    state = torch.randn(2, HEADS, 1, 4)
    read = o.read_state(state, -1)
    kernel = o.taps.flip(1)
    for t in range(3):
        kept = state[:, :, 0, : 3 - t]
        wanted = o.C[:, t, :, 0] * (kernel[:, t + 1 :] * kept).sum(2)
        torch.testing.assert_close(read[:, t, :, 0], wanted)


def test_arrays_are_the_way_back():
    o = operator(5)
    again = GatedConvolution.from_arrays(o.arrays())
    assert torch.equal(channel_maps(again), channel_maps(o))
    assert GatedConvolution.missing(["B", "C"]) == ["taps"]
    assert GatedConvolution.missing(["B", "C"], first=False) == []
    assert (o.select_heads([3]).taps == o.taps[3:4]).all()
    assert o.finite
    assert not dataclasses.replace(o, B=o.B * torch.nan).finite


def test_gates_that_close_everywhere_lose_nothing_in_the_mean():
    o = operator(4)
    assert (dataclasses.replace(o, C=torch.zeros_like(o.C)).agreement() == 1).all()


def test_what_it_has_not_is_refused():
    o = operator(4)
    with pytest.raises(UsageError, match="no 'mask'; its maps: map"):
        o.means(("mask",), (0, 4), (0, 4))
    with pytest.raises((ValueError, TypeError), match=r"one shape|parameter 'C'"):
        GatedConvolution(B=o.B, C=o.C[:, :3], taps=o.taps)
    with pytest.raises(ValueError, match="taps of 5 heads, but 6 heads in B"):
        GatedConvolution(B=o.B, C=o.C, taps=o.taps[:5])


def test_gradients_are_those_of_finite_differences():
    o = operator(5).map(lambda t: t.double())
    leaves = [t.requires_grad_() for t in (o.B, o.C, o.taps)]

    def run(B, C, taps):
        changed = dataclasses.replace(o, B=B, C=C, taps=taps)
        everything = (0, 5)
        return changed(o.x), changed.matrix([1, 3], everything, everything)

    assert torch.autograd.gradcheck(run, leaves)
