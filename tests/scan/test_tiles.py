"""Rectangles of the maps, against matrices made entry by entry in float64."""

import pytest
import torch
from operator_checks import TILES
from reference_scan import reference_attention_mask, reference_channel_maps

from ssmlens.errors import UsageError
from ssmlens.names import MAP, MASK
from ssmlens.scan import head_sums, spans
from ssmlens.scan.tiles import map_tile

# batch, tokens, heads, A_state, groups, state; A_state 0: Mamba-3
SHAPES = [
    (2, 53, 6, 3, 2, 3),
    (1, 53, 20, 16, 1, 16),
    (2, 53, 6, 1, 3, 8),
    (1, 53, 4, 1, 1, 5),
    (2, 53, 4, 0, 4, 8),
    (1, 53, 6, 0, 2, 5),
    (1, 53, 1, 0, 1, 1),
]


def attention_tile(operands, queries, keys):
    """A rectangle of map and mask."""
    return map_tile(operands, (MAP, MASK), queries, keys).unbind(1)


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def layer(request, random_operands):
    operands = random_operands(*request.param)
    return operands, reference_channel_maps(operands).mean(1), reference_attention_mask(operands)


def assert_close(got, wanted, whole):
    """To float32, for a rectangle of `whole`: its rows, because decay makes some columns tiny."""
    assert got.shape == wanted.shape
    assert float((got - wanted).norm()) <= 1e-6 * float(whole.norm())
    assert float((got - wanted).norm()) <= 1e-5 * float(wanted.norm())


@pytest.mark.parametrize(("queries", "keys"), TILES, ids=str)
def test_a_tile_is_a_rectangle_of_map_and_mask(layer, queries, keys):
    operands, wanted_map, wanted_mask = layer
    rows, columns = slice(*queries), slice(*keys)
    for got, wanted in zip(
        attention_tile(operands, queries, keys), (wanted_map, wanted_mask), strict=True
    ):
        assert_close(got.double(), wanted[:, rows, columns], wanted)


@pytest.mark.parametrize("device_inner", [(4, 64), (16, 4096)])
def test_slabs_of_heads_add_up(layer, monkeypatch, device_inner):
    """With several slabs side by side, as on a GPU, and a last one of fewer heads."""
    inner, entries = device_inner
    monkeypatch.setattr(head_sums, "_INNER", {"cpu": inner})
    monkeypatch.setattr(head_sums, "_ENTRIES", {"cpu": entries})
    operands, *wanted = layer
    for queries, keys in (((0, 53), (0, 53)), ((20, 53), (2, 19))):
        got = attention_tile(operands, queries, keys)
        for one, other in zip(got, wanted, strict=True):
            assert_close(one.double(), other[:, slice(*queries), slice(*keys)], other)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("block", [1, 4, 6, 32])
def test_tiles_hold_every_causal_pair_once_and_cut_no_block(
    random_operands, monkeypatch, tokens, block
):
    monkeypatch.setattr(spans, "TILE_TOKENS", {"cpu": 16})
    seen = torch.zeros(tokens, tokens)
    for queries, keys in spans.tiles(random_operands(1, tokens, 2, 1, 1, 2), block):
        seen[slice(*queries), slice(*keys)] += 1
        assert queries[0] % block == keys[0] % block == 0
    assert (seen <= 1).all()
    assert (seen.tril() == torch.ones(tokens, tokens).tril()).all()


def test_a_decay_too_small_for_a_float_is_zero_and_no_more(random_operands):
    operands = random_operands(1, 40, 4, 3, 1, 3, scale=1e7)
    got_map, got_mask = attention_tile(operands, (20, 40), (0, 20))
    assert got_map.isfinite().all()
    assert torch.equal(got_mask, torch.zeros_like(got_mask))


@pytest.mark.parametrize("ranges", [((0, 6), (0, 5)), ((0, 5), (-1, 5)), ((4, 3), (0, 1))])
def test_a_range_outside_the_sequence_is_refused(random_operands, ranges):
    with pytest.raises(UsageError, match="out of range: there are 5 tokens"):
        attention_tile(random_operands(1, 5, 2, 1, 1, 2), *ranges)
