"""Two operators as one batch, against each by itself; and when they cannot be one."""

import dataclasses

import pytest
import torch

from ssmlens.scan.edges import Edges, sum_over_union
from ssmlens.scan.operators.decay_scan import ScanOperands


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def make(batch, tokens=9):
    return ScanOperands(
        delta=draw(batch, tokens, 4).abs(),
        A=-draw(4, 3).abs(),
        B=draw(batch, tokens, 2, 3),
        C=draw(batch, tokens, 2, 3),
        x=draw(batch, tokens, 4, 5),
        D=draw(4, 1),
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_one_batch_mixes_as_both(batch):
    one = make(batch)
    other = dataclasses.replace(one, delta=2 * one.delta, C=one.C.flip(1))
    both = one.beside(other)
    assert both.batch == 2 * batch
    assert both.x is both.D is None
    x = torch.cat([one.x, 3 * one.x])
    torch.testing.assert_close(both(x), torch.cat([one(one.x), other(3 * one.x)]))


def test_what_all_sequences_share_must_be_the_same():
    one = make(2)
    assert one.beside(dataclasses.replace(one, A=2 * one.A)) is None
    assert one.beside(dataclasses.replace(one, A=None, log_decay=-one.delta)) is None
    assert one.beside(dataclasses.replace(one, write=one.delta)) is None
    assert one.beside(one.between(0, 4)) is None


def test_edges_are_summed_by_what_is_handed_over():
    o, tokens = make(2), 9
    all_tokens, all_heads = torch.ones(tokens, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    rectangle = Edges(all_tokens, torch.arange(tokens) < 4, all_tokens, all_heads)
    some = dataclasses.replace(rectangle, mask=torch.rand(tokens, tokens) < 0.5)
    calls = []

    def mix(o, x):
        calls.append("mix")
        return o(x)

    def sum_chosen(o, x, chosen, first):
        calls.append("sum")
        M = o.matrix(range(4), (first, first + len(chosen)), (0, tokens)) * chosen
        return torch.einsum("bhij,bjhp->bihp", M, x)

    for edges, called in ((rectangle, ["mix"]), (some, ["sum"])):
        calls.clear()
        got = sum_over_union(o, o.x, [edges], mix, sum_chosen)
        assert calls == called
        torch.testing.assert_close(got, sum_over_union(o, o.x, [edges]), rtol=1e-4, atol=1e-5)
        M = o.matrix(range(4), (0, tokens), (0, tokens)) * edges.within(0, tokens)
        wanted = torch.einsum("bhij,bjhp->bihp", M, o.x)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
