"""The matrices of the delta rule on rectangles, against the explicit formulas and row recurrences in float64."""

import math

import numpy as np
import pytest
import torch
from delta_rules import random_delta_rule, row_by_definition
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_checks import TILES
from oracles import relative
from reference_delta import reference_delta_maps

from ssmlens.scan import delta_blocks, spans
from ssmlens.scan.operators import delta_rule

KINDS = ("map", "mask", "erase")
RECTANGLES = [
    *TILES,
    ((52, 53), (0, 53)),  # a row
    ((0, 53), (7, 8)),  # a column
]


def means_by_definition(o):
    maps, erases, mask = reference_delta_maps(o)
    return torch.stack([maps.mean(1), mask, erases.mean(1)], dim=1)


def assert_close(got, wanted, tolerance):
    """Relative to the norm of each map."""
    assert got.shape == wanted.shape
    error = (got.double() - wanted).flatten(2).norm(dim=2)
    assert (error <= tolerance * wanted.flatten(2).norm(dim=2)).all()


@pytest.fixture
def _small_leaves(monkeypatch):
    """Leaves of eight tokens, inverted from pairs, so that few tokens double often."""
    monkeypatch.setattr(delta_blocks, "_LEAF", 8)
    monkeypatch.setattr(delta_blocks, "_SUBSTITUTED", 2)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("strongest", [1.0, 2.0])
@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 64, 65, 257])
def test_maps_are_the_formula(tokens, strongest, vector):
    o = random_delta_rule(1 + tokens % 2, tokens, 3, 1, 4, vector=vector, strongest=strongest)
    wanted, everything = means_by_definition(o), (0, tokens)
    assert_close(o.means(KINDS, everything, everything), wanted, 1e-10)
    single = o.map(lambda t: t.float()).means(KINDS, everything, everything)
    assert single.dtype == torch.float32
    assert_close(single, wanted, 1e-5)


@pytest.fixture(scope="module", params=[False, True], ids=["one decay", "by component"])
def layer(request):
    o = random_delta_rule(2, 53, 6, 2, 4, vector=request.param, strongest=2.0)
    return o, means_by_definition(o), reference_delta_maps(o)[0]


@pytest.mark.usefixtures("_small_leaves")
@pytest.mark.parametrize(("queries", "keys"), RECTANGLES, ids=str)
def test_any_rectangle(layer, queries, keys):
    o, means, maps = layer
    here = (..., slice(*queries), slice(*keys))
    tight = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(o.means(KINDS, queries, keys), means[here], **tight)
    heads = [4, 0, 1]
    torch.testing.assert_close(o.matrix(heads, queries, keys), maps[:, heads][here], **tight)


@pytest.mark.usefixtures("_small_leaves")
def test_some_kinds_in_any_order(layer):
    o, means, _ = layer
    for kinds in (("erase", "map"), ("mask",), ("erase",), ()):
        chosen = [KINDS.index(kind) for kind in kinds]
        torch.testing.assert_close(o.means(kinds, (20, 53), (0, 40)), means[:, chosen, 20:, :40])


@pytest.mark.usefixtures("_small_leaves")
def test_tiles_and_slabs_of_heads_add_up(layer, monkeypatch):
    o, means, _ = layer
    monkeypatch.setattr(spans, "TILE_TOKENS", {"cpu": 16})
    monkeypatch.setattr(delta_rule, "_ENTRIES", {"cpu": 4 * 53 * 4})
    got = torch.zeros_like(means)
    for queries, keys in spans.tiles(o):
        got[..., slice(*queries), slice(*keys)] += o.means(KINDS, queries, keys)
    torch.testing.assert_close(got, means, rtol=1e-10, atol=1e-12)


@settings(max_examples=40)
@given(
    st.integers(1, 40).flatmap(
        lambda tokens: st.tuples(
            st.just(tokens), st.lists(st.integers(0, tokens), min_size=4, max_size=4)
        )
    ),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_rows_carried_back_token_by_token(shape, groups, wide, vector):
    tokens, ends = shape
    queries, keys = sorted(ends[:2]), sorted(ends[2:])
    o = random_delta_rule(1, tokens, groups * wide, groups, 3, vector=vector)
    got = o.means(("map", "erase", "mask"), tuple(queries), tuple(keys))
    for i in range(*queries):
        rows = [row_by_definition(o, 0, head, i) for head in range(o.heads)]
        wanted = torch.tensor(np.mean(rows, axis=0))[:, slice(*keys)]
        torch.testing.assert_close(got[0, :, i - queries[0]], wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("log_decay", [-50.0, -torch.inf, 0.0])
def test_decays_that_are_all_or_nothing(log_decay, vector):
    o = random_delta_rule(1, 150, 2, 1, 3, vector=vector, strongest=2.0)
    o.log_decay[:, 1::3] = log_decay
    got = o.map(lambda t: t.float()).means(KINDS, (0, 150), (0, 150))
    assert_close(got, means_by_definition(o), 1e-5)


def test_rounding_does_not_pile_up_over_a_long_sequence():
    o = random_delta_rule(1, 4096, 2, 2, 8, strongest=2.0)
    single = o.map(lambda t: t.float())
    for keys in ((0, 1024), (3072, 4096)):
        got = single.means(KINDS, (4000, 4096), keys)
        assert_close(got, o.means(KINDS, (4000, 4096), keys), 1e-5)


@pytest.mark.usefixtures("_small_leaves")
@pytest.mark.parametrize("vector", [False, True])
def test_gradients_are_finite_differences(vector):
    o = random_delta_rule(1, 19, 2, 1, 2, vector=vector)
    arrays = {name: x.requires_grad_() for name, x in o.arrays().items()}

    def run(*values):
        here = type(o)(**dict(zip(arrays, values, strict=True)))
        return here.means(KINDS, (10, 19), (3, 14)), here.matrix([1], (10, 19), (3, 14))

    assert torch.autograd.gradcheck(run, tuple(arrays.values()), fast_mode=True)


def test_a_number_that_is_none_is_in_the_maps():
    o = random_delta_rule(1, 140, 2, 2, 3)
    o.k[0, 3] = torch.nan
    assert o.means(KINDS, (130, 140), (0, 140))[0, 0].isnan().any()


def test_probes_are_the_maps_times_a_vector(layer):
    o, means, _ = layer
    vector = torch.randn(2, 53, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    got = o.probe(vector)
    assert set(got) == set(KINDS)
    for n, kind in enumerate(KINDS):
        torch.testing.assert_close(got[kind], (means[:, n] @ vector.unsqueeze(2)).squeeze(2))


def test_a_small_erase_is_probed_as_exactly_as_a_large_one():
    o = random_delta_rule(1, 150, 2, 1, 4, strongest=1e-3)
    vector = torch.randn(1, 150, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    wanted = (reference_delta_maps(o)[1].mean(1) @ vector.unsqueeze(2)).squeeze(2)
    assert relative(o.map(lambda t: t.float()).probe(vector.float())["erase"], wanted) < 2e-6


@pytest.mark.usefixtures("_small_leaves")
@pytest.mark.parametrize(("sample", "heads"), [(64, range(6)), (4, [0, 1, 3, 4]), (1, [0, 3])])
def test_agreement_is_the_share_of_energy_that_the_mean_keeps(layer, sample, heads, monkeypatch):
    o, _, _ = layer
    monkeypatch.setattr(spans, "TILE_TOKENS", {"cpu": 16})
    maps, erases, _ = reference_delta_maps(o)
    for kind, each in (("map", maps[:, list(heads)]), ("erase", erases[:, list(heads)])):
        wanted = each.mean(1).square().sum((1, 2)) / each.square().sum((2, 3)).mean(1)
        torch.testing.assert_close(o.agreement(kind, sample=sample), wanted)


def test_where_nothing_is_erased_heads_agree_and_where_it_is_unknown_they_do_not():
    one = random_delta_rule(2, 1, 3, 1, 4)
    assert one.agreement("erase").tolist() == [1, 1]
    assert (one.agreement("map") < 1).all()
    longer = random_delta_rule(2, 5, 3, 1, 4)
    longer.beta[0] = 0
    longer.beta[1, 2] = torch.nan
    unwritten, unknown = longer.agreement("erase").tolist()
    assert unwritten == 1
    assert math.isnan(unknown)
