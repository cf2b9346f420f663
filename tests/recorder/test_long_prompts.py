"""Prompts above `names.LARGEST_WHOLE_MAP` tokens: reduced maps, against float64 maps of the stored operands."""

import logging

import numpy as np
import pytest
from oracles import blocks_by_definition

import ssmlens
from ssmlens import names
from ssmlens.errors import UsageError
from ssmlens.models.tokenizers import Vocabulary
from ssmlens.recorder import layer_capture
from ssmlens.recorder.prompts import Prompts
from ssmlens.scores import compute
from ssmlens.store import verify

BLOCK = 2
LOOKS = ("receptive_field", "sink", "separator_sink", "previous_token_score")
PROMPTS = Prompts(
    tokens=((3, 1, 4, 1, 5, 9, 2), (6, 5, 3, 5, 8)),
    kinds=("copy", "copy"),
    texts=("", ""),
    target=((-1, -1, 0, 1, -1, 2, 4), (-1, -1, -1, 1, -1)),
)


@pytest.fixture
def short_limit(monkeypatch):
    """More than four tokens are many, and two tokens are a block."""
    monkeypatch.setattr(names, "LARGEST_WHOLE_MAP", 4)
    monkeypatch.setattr(layer_capture, "tokens_per_block", lambda tokens: BLOCK)


@pytest.mark.parametrize("family", ["ssmlens Mamba", "ssmlens Mamba2", "ssmlens Mamba3"])
def test_a_long_prompts_layers_are_reduced(family, tiny_model, tmp_path, short_limit):
    with ssmlens.capture(tiny_model(family), PROMPTS, tmp_path / "run.h5") as captured:
        for index in captured.layers:
            layer = captured.layer(index)
            assert "attention_map" not in layer
            assert "channel_map" not in layer
            assert layer.attributes["block_tokens"] == BLOCK
            for prompt, length in enumerate(captured.length):
                whole = [kind[0].double().numpy() for kind in _whole(layer, prompt)]
                for name, entries in zip(("map", "mask"), whole, strict=True):
                    wanted = blocks_by_definition(entries, BLOCK)
                    for kind, values in zip(("mean", "max"), wanted, strict=True):
                        stored = layer.read(f"attention_{name}_{kind}")[prompt]
                        here = -(-length // BLOCK)
                        np.testing.assert_allclose(stored[:here, :here], values, 1e-4, 1e-7)
                        assert not stored[here:].any()
                        assert not stored[:, here:].any()
                look = PROMPTS.target[prompt]
                wanted = [abs(whole[0][i, j]) if j >= 0 else 0 for i, j in enumerate(look)]
                got = layer.read("target_magnitude", prompt)
                np.testing.assert_allclose(got, wanted, 1e-4, 1e-7)
            assert (layer.read("map_error") < 1e-5).all()
            assert (layer.read("mask_error") < 1e-5).all()
    assert verify(tmp_path / "run.h5") == []


def _whole(layer, prompt):
    return ssmlens.attention_map_and_mask(layer.operands(prompt).map(lambda t: t.double()))


def test_scores_of_reduced_maps_are_those_of_whole_ones(tiny_model, tmp_path, request):
    model = tiny_model("ssmlens Mamba")
    prompts = Prompts(
        tokens=((3, 1, 4, 1, 5, 9, 2), (6, 5, 3, 5, 8), (7, 7, 1, 7, 7, 1)),
        kinds=("copy", "copy", "repeat"),
        target=(*PROMPTS.target, (-1, -1, -1, 1, 2, -1)),
    )
    model.tokenizer = Vocabulary(list("a,b.cdefgh"))
    names = ["copy_score", *LOOKS]
    with ssmlens.capture(model, prompts, tmp_path / "whole.h5") as captured:
        whole, of_whole = ssmlens.rank_layers(captured), compute(captured, names)
    request.getfixturevalue("short_limit")
    with ssmlens.capture(model, prompts, tmp_path / "reduced.h5") as captured:
        reduced, of_reduced = ssmlens.rank_layers(captured), compute(captured, names)
    for name in names:
        assert (of_whole[name] > 0).any()
        np.testing.assert_allclose(of_reduced[name], of_whole[name], 1e-4)
    assert [row.layer for row in reduced.rows] == [row.layer for row in whole.rows]
    assert reduced.by == whole.by
    for a, b in zip(reduced.rows, whole.rows, strict=True):
        np.testing.assert_allclose(
            [a.scores[name] for name in whole.by], [b.scores[name] for name in whole.by], 1e-4
        )


def test_a_prompt_of_8193_tokens(tiny_model, tmp_path):
    """The real limit, once: blocks of 16 tokens, tiles on demand."""
    ids = [[(7 * i * i + i) % 32 for i in range(8193)]]
    with ssmlens.capture(tiny_model("ssmlens Mamba"), ids, tmp_path / "run", layers=[1]) as cap:
        layer = cap.layer(1)
        assert layer.read("attention_map_max").shape == (1, 513, 513)
        attention_map, attention_mask = layer.tile((8177, 8193), (8144, 8160))
        wanted = attention_map.flat[np.abs(attention_map).argmax()]
        assert layer.read("attention_map_max")[0, 511, 509] == pytest.approx(wanted, rel=1e-4)
        mean = attention_mask[:15].mean()
        assert layer.read("attention_mask_mean")[0, 511, 509] == pytest.approx(mean, rel=1e-1)
        with pytest.raises(UsageError, match="8193 tokens"):
            layer.attention_map(0)
    assert verify(tmp_path / "run") == []


def test_maps_of_channels_are_refused_before_anything_runs(tiny_model, tmp_path):
    with pytest.raises(UsageError, match=r"`channels` .* up to 8192 tokens"):
        ssmlens.capture(tiny_model("ssmlens Mamba"), [[1] * 8193], tmp_path / "x.h5", channels=[0])
    assert not list(tmp_path.iterdir())


def test_attention_is_left_out_and_said_so(tiny_model, tmp_path, short_limit, caplog):
    model = tiny_model("transformers BambaMixer")
    model.set_attn_implementation("eager")
    with caplog.at_level(logging.WARNING, "ssmlens"):
        captured = ssmlens.capture(model, [[1, 2, 3, 4, 5]], tmp_path / "run.h5")
    assert "softmax attention are not stored" in caplog.text
    assert captured.layers == (0, 2)
    assert captured.block_kinds == ["mamba", "attention", "mamba"]
    with pytest.raises(UsageError, match=r"softmax attention \(layer 1\)"):
        ssmlens.capture(model, [[1] * 5], tmp_path / "other.h5", layers=[0, 1])
