"""The page of a hybrid with a long prompt: reduced maps in blocks, softmax attention without proofs, blocks named."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
from oracles import blocks_by_definition

from ssmlens.plot.report_page import report
from ssmlens.plot.views import Plan, layer_views

BLOCK, TOKENS = 4, 23
STATISTICS = ("lag_energy", "row_magnitude", "target_magnitude", "mask_row_sum")


def packed(text):
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    high, low = planes.reshape(2, -1).astype(np.uint32)
    return (high << 24 | low << 16).view(np.float32)


def cells(view):
    """The view's values as a lower triangle in a square."""
    square = np.full((view["side"], view["side"]), np.nan)
    square[np.tril_indices(view["side"])] = packed(view["values"])
    return square


@pytest.fixture
def whole(make_capture):
    return make_capture(kinds=("copying", "recency"), lengths=(TOKENS,), channels=0)


@pytest.fixture
def capture(make_capture, whole):
    """Layer 0 reduced, 1 Mamba beside attention, 2 softmax attention."""
    capture = make_capture(kinds=("copying", "recency", "recency"), lengths=(TOKENS,), channels=0)
    arrays = capture.fakes[0].arrays
    capture.fakes[0].attributes["block_tokens"] = BLOCK
    for name in ("attention_map", "attention_mask"):
        values = arrays.pop(name)[0]
        for how, square in zip(("mean", "max"), blocks_by_definition(values, BLOCK), strict=True):
            arrays[f"{name}_{how}"] = [square.astype(np.float32)]
    for name in STATISTICS:
        arrays[name] = [np.random.default_rng(1).uniform(0.1, 1, TOKENS).astype(np.float32)]
    for name in ("map_error", "mask_error"):
        del arrays[name]
    softmax = np.abs(whole.fakes[1].arrays["attention_map"][0])
    softmax /= softmax.sum(1, keepdims=True)
    capture.fakes[1].arrays["softmax_attention_map"] = [softmax]
    capture.fakes[2].arrays = {"attention_map": [softmax]}
    capture.fakes[2].attributes = {"kind": "attention"}
    capture.block_kinds = ["mamba", "mamba+attention", "attention", "mlp", "moe", "moe"]
    return capture


@pytest.mark.parametrize(("budget", "several"), [(10_000, 1), (8, 2), (3, 3)])
def test_reduced_maps_are_drawn_in_their_blocks_or_several_of_them(capture, whole, budget, several):
    shown = Plan(prompts=1, top=frozenset(), top_cells=1, other_cells=budget)
    attention_map, mask = layer_views(capture, 0, shown)
    block = several * BLOCK
    for view, name, how in (
        (attention_map, "attention_map", "max"),
        (mask, "attention_mask", "mean"),
    ):
        assert view["name"] == name
        assert view["block"] == block
        mean, largest = blocks_by_definition(whole.fakes[0].arrays[name][0], block)
        drawn = cells(view)
        lower = np.isfinite(drawn)
        np.testing.assert_array_equal(lower, np.tri(len(mean), dtype=bool))
        expected = largest if how == "max" else mean
        np.testing.assert_allclose(drawn[lower], expected[lower], rtol=2**-7)
    energy = capture.fakes[0].arrays["lag_energy"][0]
    np.testing.assert_allclose(
        packed(attention_map["lags"]), energy[: 3 * TOKENS // 4 + 1], rtol=2**-7
    )


def test_views_of_attention(capture):
    shown = Plan(prompts=1, top=frozenset(), top_cells=1, other_cells=10_000)
    beside = layer_views(capture, 1, shown)
    assert [v["title"] for v in beside] == [
        "Attention map",
        "Attention mask",
        "Softmax attention map",
    ]
    (alone,) = layer_views(capture, 2, shown)
    assert alone["title"] == "Softmax attention map"
    np.testing.assert_array_equal(cells(alone), cells(beside[2]))


def test_what_needs_no_proof_and_what_does(capture):
    assert [capture.layer(index).verdict.answer for index in range(3)] == ["yes"] * 3
    del capture.fakes[0].arrays["closure_error"]
    del capture.fakes[1].arrays["map_error"]
    verdicts = [capture.layer(index).verdict for index in range(3)]
    assert [v.answer for v in verdicts] == ["not resolved", "not resolved", "yes"]
    assert [v.reason for v in verdicts[:2]] == [
        "no closure_error is stored",
        "no map_error is stored",
    ]
    assert "? not resolved" in report(capture).html
    capture.fakes[0].arrays |= {"closure_error": np.full(1, 1e-7), "map_error": np.full(1, np.nan)}
    assert capture.layer(0).verdict.answer == "no"
    assert capture.layer(0).verdict.reason == "map_error nan > 1e-05"


def test_the_page_names_the_blocks_and_labels_the_ranges(capture):
    page = report(capture).html
    text = re.sub(r"<[^>]+>", " ", page.split('<script type="application/json"')[0])
    assert "mamba 0; mamba+attention 1; attention 2; mlp 3; moe 4–5" in text
    assert "All 2 layers reproduce what the model computed." in text
    assert "softmax attention" in text
    assert "✗" not in text
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [layer["kind"] for layer in data["layers"]] == ["mamba", "mamba", "attention"]
    labels = data["prompts"][0]["labels"]
    assert labels[str(BLOCK)][1].startswith("4–7 ")
    assert len(labels[str(BLOCK)]) == 6


def test_a_capture_of_mamba_alone_does_not_list_its_blocks(whole):
    whole.block_kinds = ["mamba", "mamba", "other"]
    assert "<dt>Blocks</dt>" not in report(whole).html
