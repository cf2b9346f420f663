"""Checks that hold of every operator: against its matrices M, computed entry by entry in float64, or of its state."""

import torch
from oracles import relative

from ssmlens.scan.edges import Edges, change_of_rows, sum_over_union
from ssmlens.scan.hidden_attention import channel_maps
from ssmlens.scan.row import matrix_row

RECTANGLES = [
    ((0, 9), (0, 9)),
    ((3, 7), (1, 5)),
    ((2, 4), (6, 9)),
    ((5, 5), (0, 3)),
    ((8, 9), (6, 7)),
]
"""Rectangles (queries, keys) of a matrix of 9 tokens."""

TILES = [
    ((0, 53), (0, 53)),
    ((52, 53), (0, 1)),
    ((30, 53), (0, 17)),  # below the diagonal, with tokens between
    ((17, 30), (0, 17)),  # below, adjacent
    ((20, 41), (20, 41)),  # on the diagonal
    ((10, 40), (5, 21)),  # through it, queries last
    ((5, 21), (10, 40)),  # through it, keys last
    ((0, 53), (9, 30)),
    ((9, 30), (0, 53)),
    ((3, 9), (20, 30)),  # above
    ((7, 7), (0, 20)),  # empty
    ((7, 9), (4, 4)),
]
"""Rectangles (queries, keys) of a matrix of 53 tokens."""


def assert_matrices(o, M, tolerance):
    """Assert that o computes M: whole, its diagonal, its last row, on x, on a vector; and its heads' agreement."""
    assert relative(channel_maps(o), M) < tolerance
    assert relative(o.diagonal(), M.diagonal(dim1=2, dim2=3).mT) < 1e-6
    assert relative(o(o.x), mixed_by(M, o.x)) < 1e-6
    vector = torch.randn(o.batch, o.tokens)
    assert_probe(o, vector, "map", M, tolerance)
    kept = M.mean(1).square().sum((1, 2)) / M.square().mean(1).sum((1, 2))
    assert relative(o.agreement(), kept) < tolerance
    assert relative(matrix_row(o, o.tokens - 1), M[:, :, -1]) < tolerance


def assert_probe(o, vector, kind, M, tolerance):
    """Assert that o multiplies a vector by the mean over heads of M."""
    probed = torch.einsum("bij,bj->bi", M.mean(1), vector.double())
    assert relative(o.probe(vector)[kind], probed) < tolerance


def assert_edges(o, M, tolerance):
    """Assert o's entries, its sum over some edges, and its sum with changed rows; o has 11 tokens."""
    everything = torch.ones(11, dtype=torch.bool)
    i, j = torch.tensor([5, 5, 10, 3]), torch.tensor([4, 0, 7, 2])
    assert relative(o.entries(i, j), M[:, :, i, j].mT) < tolerance
    lags = torch.zeros(11, dtype=torch.bool)
    lags[[1, 3]] = True
    edges = Edges(everything, everything, lags, torch.ones(o.heads, dtype=torch.bool))
    summed = sum_over_union(o.bare(), o.x, [edges], lambda o, x: o(x))
    assert relative(summed, mixed_by(M * edges.within(0, 11), o.x)) < tolerance
    doubled = change_of_rows(o.bare(), o.x, [2], lambda M, queries: 2 * M)
    assert relative(doubled[:, :, 2], mixed_by(M, o.x)[:, :, 2]) < tolerance
    assert not doubled[:, :, :2].any()
    assert not doubled[:, :, 3:].any()


def assert_state(o, since, before_all, **tolerances):
    """Assert that the tokens up to `since` reach those from it on through the state alone.

    Args:
        o: An operator on 9 tokens.
        since: A token; -1 for the state before the first one.
        before_all: The state before the first token.
        tolerances: rtol and atol.
    """
    tokens = torch.arange(9)[:, None, None]
    before = torch.where(tokens <= since, o.x, 0)
    state = o.state_after(o.x, since) if since >= 0 else before_all
    wanted = torch.where(tokens >= since, o(before), 0)
    torch.testing.assert_close(o.read_state(state, since), wanted, **tolerances)
    for until in range(max(0, since), 9):
        left = o.state_left(state, since, until)
        torch.testing.assert_close(left, o.state_after(before, until), **tolerances)


def mixed_by(M, x):
    """M x of every head, in float64."""
    return torch.einsum("bhij,bjhp->bihp", M, x.double())
