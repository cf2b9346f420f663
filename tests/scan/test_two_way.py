"""The two-way scan against both directions written out in float64, entry by entry and token by token."""

import dataclasses

import numpy as np
import pytest
import torch
from oracles import (
    blocks_by_definition,
    maps_by_definition,
    relative,
    two_way_by_definition,
)

from ssmlens.errors import UsageError
from ssmlens.scan.edges import Edges, change_of_rows, sum_over_union
from ssmlens.scan.hidden_attention import attention_map_and_mask, channel_agreement, channel_maps
from ssmlens.scan.operators.two_way import TwoWayScan
from ssmlens.scan.reduce import reduced_maps
from ssmlens.scan.row import matrix_row
from ssmlens.scan.selective_scan import selective_scan
from ssmlens.scan.spans import TILE_TOKENS
from ssmlens.scan.tiles import map_tile

LENGTHS, BATCHES = (1, 2, 5, 64, 65), (1, 3)
SHAPES = pytest.mark.parametrize(
    ("own", "A_state", "groups"), [(False, 3, 1), (True, 3, 2), (True, 1, 1)]
)


def random_two_way(batch, tokens, own=True, A_state=3, groups=1, heads=4, seed=0):
    """Operands at random; with `own` the backward scan has arrays of its own."""
    g = torch.Generator().manual_seed(seed)
    arrays = {}
    for end in ("", "_back") if own else ("",):
        arrays[f"delta{end}"] = torch.exp(
            torch.empty(batch, tokens, heads).uniform_(-6, 1, generator=g)
        )
        arrays[f"A{end}"] = -torch.exp(torch.empty(heads, A_state).uniform_(-2, 2, generator=g))
        for name in ("B", "C"):
            arrays[f"{name}{end}"] = torch.randn(batch, tokens, groups, 3, generator=g)
    x = torch.randn(batch, tokens, heads, 2, generator=g)
    return TwoWayScan(**arrays, x=x, D=torch.randn(heads, 1, generator=g))


def by_definition(o, row, length=None):
    """M [head query key] and the mask of one sequence: each direction entry by entry, the second in reverse."""
    delta, B, C = (getattr(o, n)[row, :length] for n in ("delta", "B", "C"))
    maps, mask = maps_by_definition(delta, o.A, B, C)
    back = [
        getattr(o, n) if getattr(o, f"{n}_back") is None else getattr(o, f"{n}_back") for n in "BC"
    ]
    steps = o.delta if o.delta_back is None else o.delta_back
    A = o.A if o.A_back is None else o.A_back
    delta, B, C = (array[row, :length].flip(0) for array in (steps, *back))
    other, other_mask = maps_by_definition(delta, A, B, C)
    both = maps + other[:, ::-1, ::-1]
    return both, mask + other_mask[::-1, ::-1] - np.eye(len(mask))


def scanned(o, row, length=None):
    """y of one sequence, token by token in both directions."""
    cut = {name: getattr(o, name) for name in (*o.axes, "x")}
    axes = {**o.axes, "x": ("prompt", "token")}
    cut = {
        name: array[row : row + 1, :length] if "token" in axes[name] else array
        for name, array in cut.items()
        if array is not None
    }
    return two_way_by_definition(dataclasses.replace(o, **cut))[0]


@SHAPES
@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("batch", BATCHES)
def test_maps_and_scan_are_both_directions(batch, tokens, own, A_state, groups):
    o = random_two_way(batch, tokens, own, A_state, groups)
    M, y = channel_maps(o), selective_scan(o)
    mean, mask = attention_map_and_mask(o)
    probe = o.probe(o.x[:, :, 0, 0])
    for row in range(batch):
        maps, decay = by_definition(o, row)
        assert relative(M[row], maps) < 1e-5
        assert relative(mean[row], maps.mean(0)) < 1e-5
        assert relative(mask[row], decay) < 1e-5
        assert relative(y[row], scanned(o, row)) < 1e-5
        assert relative(o.diagonal()[row].T, np.stack([m.diagonal() for m in maps])) < 1e-5
        vector = o.x[row, :, 0, 0].double().numpy()
        assert relative(probe["map"][row], maps.mean(0) @ vector) < 1e-5
        assert relative(probe["mask"][row], decay @ vector) < 1e-5
        share = (maps.mean(0) ** 2).sum() / (maps**2).sum((1, 2)).mean()
        assert float(channel_agreement(o)[row]) == pytest.approx(share, rel=1e-4)
    assert not o.is_causal
    assert tokens == 1 or np.triu(maps[0], 1).any()


@pytest.mark.parametrize(
    ("queries", "keys"),
    [((0, 65), (0, 65)), ((3, 9), (20, 64)), ((40, 65), (0, 7)), ((5, 5), (2, 9))],
)
def test_any_rectangle_is_that_of_the_whole(queries, keys):
    o = random_two_way(1, 65)
    maps, mask = by_definition(o, 0)
    part = np.s_[slice(*queries), slice(*keys)]
    tile = map_tile(o, ("mask", "map"), queries, keys)[0].numpy()
    of_heads = o.matrix([2, 0], queries, keys)[0].numpy()
    assert np.allclose(tile, [mask[part], maps.mean(0)[part]], rtol=1e-4, atol=1e-5)
    assert np.allclose(of_heads, maps[[2, 0]][:, *part], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("query", [0, 4, 8])
def test_a_row_reads_what_is_ahead(query):
    o = random_two_way(2, 9)
    wanted = np.stack([by_definition(o, row)[0][:, query] for row in (0, 1)])
    assert relative(matrix_row(o, query), wanted) < 1e-5


def padded(o, lengths):
    """The same, with Δ = 0 past each row's length, and nonsense in all else there."""
    there = torch.arange(o.tokens) < torch.tensor(lengths)[:, None]
    changed = {}
    for name, axes in o.axes.items():
        array = getattr(o, name)
        if array is not None and "token" in axes:
            real = there.reshape(*there.shape, *[1] * (array.ndim - 2))
            changed[name] = torch.where(real, array, 0.0 if name.startswith("delta") else 7.0)
    x = torch.where(there[:, :, None, None], o.x, 5.0)
    return dataclasses.replace(o, **changed, x=x)


@pytest.mark.parametrize("own", [False, True])
def test_a_padded_batch_equals_its_rows_alone(own):
    lengths = [9, 1, 4]
    whole = random_two_way(3, 9, own)
    o = padded(whole, lengths)
    y = selective_scan(o)
    for row, length in enumerate(lengths):
        assert relative(y[row, :length], scanned(whole, row, length)) < 1e-5
        alone, (maps, mask) = o.sequence(row, length), by_definition(whole, row, length)
        assert relative(channel_maps(alone)[0], maps) < 1e-5
        assert relative(attention_map_and_mask(alone)[1][0], mask) < 1e-5


def test_tokens_that_were_no_padding_are_not_cut_off():
    with pytest.raises(UsageError, match="its mixer looks ahead"):
        random_two_way(2, 6).sequence(0, 4)
    assert random_two_way(2, 6).sequence(1, 6).tokens == 6


@pytest.mark.parametrize("tile_tokens", [4096, 12])
def test_reduced_maps_are_over_all_pairs(monkeypatch, tile_tokens):
    monkeypatch.setitem(TILE_TOKENS, "cpu", tile_tokens)
    o = random_two_way(1, 33)
    maps, mask = by_definition(o, 0)
    mean, target = maps.mean(0), torch.arange(33).flip(0)
    found = reduced_maps(o, 4, target, torch.arange(33.0))
    for kind, whole in (("map", mean), ("mask", mask)):
        means, largest = blocks_by_definition(whole, 4, causal=False)
        assert np.allclose(found.mean[kind], means, rtol=1e-4, atol=1e-5)
        assert np.allclose(found.largest[kind], largest, rtol=1e-4, atol=1e-5)
        assert relative(found.product[kind], whole @ np.arange(33)) < 1e-5
    assert relative(found.row_magnitude, np.abs(mean).sum(1)) < 1e-5
    assert relative(found.target_magnitude, np.abs(mean[:, ::-1].diagonal())) < 1e-5
    assert relative(found.mask_row_sum, mask.sum(1)) < 1e-5
    back = [np.square(mean.diagonal(-lag)).mean() for lag in range(33)]
    ahead = [np.square(mean.diagonal(lag)).mean() for lag in range(33)]
    assert relative(found.lag_energy, back) < 1e-5
    assert found.ahead_energy is not None
    assert relative(found.ahead_energy, ahead) < 1e-5


def edges(**chosen):
    parts = {
        name: torch.ones(size, dtype=torch.bool)
        for name, size in (("queries", 9), ("keys", 9), ("lags", 9), ("heads", 4))
    }
    for name, there in chosen.items():
        parts[name] = torch.zeros_like(parts[name])
        parts[name][list(there)] = True
    return Edges(**parts)


@pytest.mark.parametrize(
    "chosen",
    [
        {"queries": [2], "keys": range(5, 9)},
        {"lags": range(1, 9)},
        {"lags": [3]},
        {"lags": [0, 2], "heads": [1, 3]},
    ],
)
def test_edges_are_of_both_directions(chosen):
    """A lag is how many tokens apart."""
    o = random_two_way(2, 9)
    picked = {
        name: set(chosen.get(name, range(9))) for name in ("queries", "keys", "lags", "heads")
    }
    out = sum_over_union(o, o.x, [edges(**chosen)])
    for row in range(2):
        maps, _ = by_definition(o, row)
        for h, i, j in np.ndindex(*maps.shape):
            there = i in picked["queries"] and j in picked["keys"] and h in picked["heads"]
            if not (there and abs(i - j) in picked["lags"]):
                maps[h, i, j] = 0
        wanted = np.einsum("hij,jhp->ihp", maps, o.x[row].double().numpy())
        assert np.allclose(out[row], wanted, rtol=1e-4, atol=1e-5)


def test_rows_are_changed_with_what_is_ahead():
    o = random_two_way(1, 7)
    half = change_of_rows(o, o.x, [0, 2], lambda M, queries: M / 2)
    maps, _ = by_definition(o, 0)
    wanted = -np.einsum("hij,jhp->ihp", maps, o.x[0].double().numpy()) / 2
    assert np.allclose(half[0, :, [0, 2]], wanted[:, [0, 2]], rtol=1e-4, atol=1e-5)
    assert not half[0, :, [1, 3]].any()


def test_it_has_no_one_state():
    with pytest.raises(UsageError, match="a two-way scan has no state"):
        random_two_way(1, 4).state_after(torch.zeros(1, 4, 4, 2), 2)


def test_what_is_not_finite_stays_in_its_sequence():
    o = random_two_way(2, 5)
    o.B[1, 2] = torch.nan
    y = selective_scan(o)
    assert y[0].isfinite().all()
    assert y[1].isnan().any()
    assert o.sequence(0).finite
    assert not o.sequence(1).finite
