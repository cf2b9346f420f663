"""The vector decay scan held against its definition, entry by entry and token by token in float64."""

import jaxtyping
import pytest
import torch
from oracles import mixed_by_definition, relative

from ssmlens.errors import UsageError
from ssmlens.scan.edges import Edges, change_of_rows, sum_over_union
from ssmlens.scan.hidden_attention import channel_maps
from ssmlens.scan.operators.vector_decay_scan import VectorDecayScan
from ssmlens.scan.row import matrix_row

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
    assert relative(channel_maps(o), M) < 1e-5
    assert relative(o.diagonal(), M.diagonal(dim1=2, dim2=3).mT) < 1e-6
    mixed = torch.einsum("bhij,bjhp->bihp", M, o.x.double())
    assert relative(o(o.x), mixed) < 1e-6
    assert relative(mixed_by_definition(o), mixed) < 1e-12
    everything = (0, tokens)
    means = o.means(("mask", "map"), everything, everything)
    assert relative(means[:, 0], mask.mean(1)) < 1e-6
    assert relative(means[:, 1], M.mean(1)) < 1e-5
    vector = torch.randn(o.batch, tokens)
    for kind, whole in (("map", M), ("mask", mask)):
        probed = torch.einsum("bij,bj->bi", whole.mean(1), vector.double())
        assert relative(o.probe(vector)[kind], probed) < 1e-5
    kept = M.mean(1).square().sum((1, 2)) / M.square().mean(1).sum((1, 2))
    assert relative(o.agreement(), kept) < 1e-5
    assert relative(matrix_row(o, tokens - 1), M[:, :, -1]) < 1e-5


RECTANGLES = [
    ((0, 9), (0, 9)),
    ((3, 7), (1, 5)),
    ((2, 4), (6, 9)),
    ((5, 5), (0, 3)),
    ((8, 9), (6, 7)),
]


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
    (M, _), everything = matrices(o), torch.ones(11, dtype=torch.bool)
    i, j = torch.tensor([5, 5, 10, 3]), torch.tensor([4, 0, 7, 2])
    assert relative(o.entries(i, j), M[:, :, i, j].mT) < 1e-5
    lags = torch.zeros(11, dtype=torch.bool)
    lags[[1, 3]] = True
    edges = Edges(everything, everything, lags, torch.ones(HEADS, dtype=torch.bool))
    wanted = torch.einsum("bhij,bjhp->bihp", M * edges.within(0, 11), o.x.double())
    assert relative(sum_over_union(o.bare(), o.x, [edges], lambda o, x: o(x)), wanted) < 1e-5
    doubled = change_of_rows(o.bare(), o.x, [2], lambda M, queries: 2 * M)
    mixed = torch.einsum("bhij,bjhp->bihp", M, o.x.double())
    assert relative(doubled[:, :, 2], mixed[:, :, 2]) < 1e-5


@pytest.mark.parametrize("since", [-1, 0, 3, 8])
def test_what_a_state_holds_is_what_later_tokens_read(since):
    o = operator(9)
    before = torch.where((torch.arange(9) <= since)[:, None, None], o.x, 0)
    state = o.state_after(o.x, since) if since >= 0 else torch.zeros(2, HEADS, 2, STATES)
    later = torch.arange(9) >= since
    wanted = torch.where(later[:, None, None], o(before), 0)
    torch.testing.assert_close(o.read_state(state, since), wanted, rtol=1e-4, atol=1e-5)
    for until in range(max(0, since), 9):
        left = o.state_left(state, since, until)
        torch.testing.assert_close(left, o.state_after(before, until), rtol=1e-4, atol=1e-5)


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
