"""Sums over edges of M, in pieces of any size, and states; held against the matrices and recurrences of definitions."""

import pytest
import torch
from oracles import relative
from reference_delta import reference_delta_maps
from reference_scan import reference_channel_maps

from ssmlens.scan import decay_states, edges
from ssmlens.scan.edges import Edges, change_of_rows, sum_over_union
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.operators.delta_rule import DeltaRule

BATCH, TOKENS, HEADS, HEADDIM, STATES = 2, 9, 4, 3, 5


def decay_scan(groups, A_state, tokens=TOKENS):
    torch.manual_seed(groups)
    return DecayScan(
        delta=torch.rand(BATCH, tokens, HEADS),
        A=-torch.rand(HEADS, A_state),
        B=torch.randn(BATCH, tokens, groups, STATES),
        C=torch.randn(BATCH, tokens, groups, STATES),
    )


def mamba3(tokens=TOKENS):
    o = decay_scan(HEADS, 1, tokens)
    write, now = torch.rand(2, BATCH, tokens, HEADS)
    return DecayScan(
        delta=o.delta, A=None, B=o.B, C=o.C, log_decay=-o.delta, write=write, write_now=now
    )


def delta_rule(tokens=TOKENS):
    torch.manual_seed(0)
    q, k = torch.nn.functional.normalize(torch.randn(2, BATCH, tokens, 2, STATES), dim=-1)
    beta, log_decay = torch.rand(2, BATCH, tokens, HEADS)
    return DeltaRule(q=q, k=k, beta=beta, log_decay=-log_decay.unsqueeze(3))


OPERATORS = {
    "Mamba-1": lambda: decay_scan(1, STATES),
    "Mamba-1 in groups": lambda: decay_scan(2, STATES),
    "Mamba-2": lambda: decay_scan(2, 1),
    "Mamba-3": mamba3,
    "delta rule": delta_rule,
}


@pytest.fixture(params=OPERATORS)
def operator(request):
    return OPERATORS[request.param]()


@pytest.fixture(params=[1, 40, 2**22])
def in_pieces(request, monkeypatch):
    monkeypatch.setattr(edges, "_ENTRIES", {"cpu": request.param, "cuda": request.param})
    monkeypatch.setattr(decay_states, "_ENTRIES", request.param)


def matrices(operator):
    if isinstance(operator, DeltaRule):
        return reference_delta_maps(operator)[0]
    return reference_channel_maps(operator)


def some(queries=True, keys=True, lags=True, heads=True, mask=None):
    def along(chosen, size):
        out = torch.zeros(size, dtype=torch.bool)
        out[slice(None) if chosen is True else chosen] = True
        return out

    return Edges(
        along(queries, TOKENS), along(keys, TOKENS), along(lags, TOKENS), along(heads, HEADS), mask
    )


MASK = torch.rand(TOKENS, TOKENS, generator=torch.Generator().manual_seed(0)) < 0.4
FEW = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
FEW[[8, 8, 3, 2], [0, 8, 1, 5]] = True  # the last one is no edge: its key comes after its query
SETS = {
    "a rectangle": [some(slice(5, None), slice(0, 3))],
    "no cross-talk": [some(lags=slice(1, None))],
    "no cross-talk of some heads": [some(lags=slice(1, None), heads=[1, 3])],
    "a band": [some(lags=[1, 2], queries=slice(2, None))],
    "a mask": [some(mask=MASK, heads=[0, 2])],
    "pairs": [some(mask=FEW)],
    "pairs of some heads": [some(mask=FEW, heads=[3])],
    "three that overlap": [
        some(slice(4, None), slice(0, 6)),
        some(slice(6, None), slice(3, None), heads=[0, 1]),
        some(lags=[0, 2], mask=MASK),
    ],
    "one twice": [some([5], [2]), some([5], [2])],
    "none": [some([1], [], heads=[0]), some(heads=[])],
    "nothing at all": [],
}


def contains(edges_of, i, j, head):
    chosen = edges_of.queries[i] and edges_of.keys[j] and edges_of.heads[head]
    chosen = chosen and i >= j and edges_of.lags[i - j]
    return bool(chosen and (edges_of.mask is None or edges_of.mask[i, j]))


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize("name", SETS)
def test_every_edge_in_any_of_the_sets_is_summed_once(operator, name):
    x = torch.randn(BATCH, TOKENS, HEADS, HEADDIM)
    M = matrices(operator)
    for head in range(HEADS):
        for i in range(TOKENS):
            for j in range(TOKENS):
                if not any(contains(one, i, j, head) for one in SETS[name]):
                    M[:, head, i, j] = 0
    wanted = torch.einsum("bhij,bjhp->bihp", M, x.double())
    got = sum_over_union(operator, x, SETS[name])
    assert got.shape == x.shape
    torch.testing.assert_close(got, wanted.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("in_pieces")
def test_rows_are_changed_some_at_a_time(operator):
    x = torch.randn(BATCH, TOKENS, HEADS, HEADDIM)
    seen = []

    def change(M, queries):
        seen.append(queries)
        assert M.shape == (BATCH, 2, queries[1] - queries[0], TOKENS)
        factor = torch.arange(*queries).view(-1, 1).float()
        return M * factor

    got = change_of_rows(operator, x, [1, 3], change)
    assert [row for first, end in seen for row in range(first, end)] == list(range(TOKENS))
    M = matrices(operator) * (torch.arange(TOKENS).view(-1, 1) - 1)
    wanted = torch.einsum("bhij,bjhp->bihp", M, x.double())
    wanted[:, :, [0, 2]] = 0
    assert relative(got, wanted) < 1e-5
    assert not change_of_rows(operator, x, [], change).any()


@pytest.mark.usefixtures("in_pieces")
def test_entries_are_those_of_the_matrix(operator):
    i, j = torch.tensor([8, 3, 2, 8]), torch.tensor([0, 2, 1, 7])
    got = operator.entries(i, j)
    if isinstance(operator, DeltaRule):
        assert got is None
        return
    assert relative(got, matrices(operator)[:, :, i, j].movedim(1, 2)) < 1e-5
    assert operator.entries(i[:0], j[:0]).shape == (BATCH, 0, HEADS)


@pytest.mark.usefixtures("in_pieces")
def test_a_state_and_what_is_read_of_it_make_the_recurrence(operator):
    """What tokens read of the state after t, and what they read of later ones, is all that they read."""
    x = torch.randn(BATCH, TOKENS, HEADS, HEADDIM)
    whole = torch.einsum("bhij,bjhp->bihp", matrices(operator), x.double())
    for token in (0, 4, TOKENS - 1):
        state = operator.state_after(x, token)
        assert state.shape == (BATCH, HEADS, HEADDIM, STATES)
        later = x.clone()
        later[:, : token + 1] = 0
        read = operator.read_state(state, token)
        assert not read[:, :token].any()
        together = (read + operator(later))[:, token + 1 :]
        torch.testing.assert_close(together, whole[:, token + 1 :].float(), rtol=1e-4, atol=1e-5)
        for until in (token, min(token + 3, TOKENS - 1)):
            left = operator.state_left(state, token, until)
            again = operator.read_state(left, until)
            torch.testing.assert_close(again[:, until:], read[:, until:], rtol=1e-4, atol=1e-5)
    initial = torch.randn(BATCH, HEADS, HEADDIM, STATES)
    after_one = operator.state_left(initial, -1, 0)
    torch.testing.assert_close(
        operator.read_state(initial, -1), operator.read_state(after_one, 0), rtol=1e-4, atol=1e-5
    )
