import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmlens.plot.views import OTHER_CELLS, PROMPTS, TOP_CELLS, Plan, layer_views, plan


def values_of(view):
    planes = np.frombuffer(zlib.decompress(base64.b64decode(view["values"])), np.uint8)
    high, low = planes.reshape(2, -1).astype(np.uint32)
    return (high << 24 | low << 16).view(np.float32)


def cells_of(view):
    return len(values_of(view))


class Sizes:
    """A capture of which only the sizes are known."""

    attributes, prompt_texts, prompt_kinds, digest, target = {}, [], [], "", None
    block_kinds, schema_version, closure_tolerance = (), 2, 1e-4

    def __init__(self, layers, length, maps=("map", "mask")):
        self.layers, self.length, self._maps = range(layers), np.array(length), maps

    def layer(self, index):
        return NoChannels(self._maps)

    def token_strings(self, prompt):
        return []


class NoChannels:
    index, state, attributes, verdict = 0, "yes", {}, None

    def __init__(self, maps):
        self.maps = maps

    def __contains__(self, name):
        return False

    def read(self, name, prompt=None):
        raise AssertionError


@given(
    st.integers(1, 96),
    st.lists(st.integers(1, 4096), min_size=1, max_size=9),
    st.integers(0, 5),
    st.integers(1, 3),
)
def test_the_page_stays_within_its_cells(layers, lengths, top, maps):
    sizes = Sizes(layers, lengths, ("map", "mask", "erase")[:maps])
    shown = plan(sizes, list(range(min(top, layers))))
    assert 1 <= shown.prompts <= PROMPTS
    total = 0
    for layer in range(layers):
        for tokens in lengths[: shown.prompts]:
            side = -(-tokens // shown.block(layer, "attention_map", tokens))
            total += maps * side * (side + 1) // 2
    assert total <= 1.02 * (TOP_CELLS + OTHER_CELLS)


def test_a_48_layer_capture_of_1024_tokens_shows_its_best_layers_entirely():
    shown = plan(Sizes(48, [1024]), [5, 9, 30])
    assert shown.block(9, "attention_map", 1024) == 1
    assert 2 <= shown.block(10, "attention_map", 1024) <= 8


def test_small_captures_are_shown_entirely(make_capture):
    capture = make_capture(lengths=(23, 15))
    shown = plan(capture, [1])
    views = [v for i in (0, 1) for v in layer_views(capture, i, shown)]
    assert all(v["block"] == 1 for v in views)
    assert [v["name"] for v in views if v["prompt"] == 1] == [
        *("attention_map", "attention_mask"),
        *("attention_map", "attention_mask", "channel_map", "channel_map"),
    ]
    assert {cells_of(v) for v in views if v["prompt"] == 1} == {15 * 16 // 2}
    assert views[-1]["title"] == "Channel 5"


def test_blocks_keep_the_peak_of_maps_and_the_mean_of_masks(make_capture):
    capture = make_capture(kinds=("copying",), lengths=(23,), channels=0)
    shown = Plan(prompts=1, top=frozenset(), top_cells=1, other_cells=50)  # 10 cells a side
    attention_map, mask = layer_views(capture, 0, shown)
    assert (attention_map["block"], attention_map["side"]) == (3, 8)
    assert mask["side"] == 8
    stored = {n: capture.layer(0).read(n, 0) for n in ("attention_map", "attention_mask")}
    at = 0
    for row in range(8):
        for column in range(row + 1):
            square = [
                (q, k)
                for q in range(3 * row, min(3 * row + 3, 23))
                for k in range(3 * column, 3 * column + 3)
                if k <= q
            ]
            entries = [stored["attention_map"][cell] for cell in square]
            decays = [stored["attention_mask"][cell] for cell in square]
            assert values_of(attention_map)[at] == pytest.approx(max(entries, key=abs), rel=2**-8)
            assert values_of(mask)[at] == pytest.approx(sum(decays) / len(decays), rel=2**-7)
            at += 1
    assert at == cells_of(attention_map) == cells_of(mask)


def test_a_layer_that_is_not_finite_has_a_note_and_no_map(make_capture):
    capture = make_capture(kinds=("recency", "broken"))
    capture.fakes[1].attributes["reason"] = "A_log holds 3 NaN"
    view = layer_views(capture, 1, plan(capture, [0]))[0]
    assert view["note"] == "No map: the layer's weights are not finite. A_log holds 3 NaN"
    assert "values" not in view
    assert "thumbnail" not in view


@pytest.mark.parametrize("name", ["attention_map", "attention_mask"])
def test_a_map_that_is_not_stored_has_a_note(make_capture, name):
    capture = make_capture(kinds=("recency",))
    del capture.fakes[0].arrays[name]
    notes = [v for v in layer_views(capture, 0, plan(capture, [0])) if "note" in v]
    assert {v["name"] for v in notes} == {name}


def test_one_infinite_entry_is_enough_for_a_note(make_capture):
    capture = make_capture(kinds=("recency",), lengths=(5,))
    capture.fakes[0].arrays["attention_map"][0][3, 1] = np.inf
    assert "not finite" in layer_views(capture, 0, plan(capture, [0]))[0]["note"]
