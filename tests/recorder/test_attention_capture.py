"""Captures of hybrids: what softmax attention leaves in a file, alone in its block or beside a mixer."""

import logging

import numpy as np
import pytest
import torch

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.names import MAP_STATISTICS
from ssmlens.recorder import capture as module
from ssmlens.store import verify

IDS = [[13, 11, 14, 11, 15, 19, 12], [16, 15, 13, 15], [18], [19, 17, 19, 13, 12]]
OF_HEADS = [f"head_{name}" for name in MAP_STATISTICS]
# Family: what is stored, block by block.
STORED = {
    "transformers BambaMixer": "mamba attention mamba",
    "transformers FalconH1Mixer": "both both both",
    "transformers GraniteMoeHybridMambaLayer": "mamba attention mamba",
    "transformers JambaMambaMixer": "mamba attention mamba",
    "transformers NemotronHMamba2Mixer": "mamba - attention - mamba",
    "transformers ZambaMambaMixer": "mamba mamba both mamba both",
    "transformers Zamba2MambaMixer": "mamba both mamba",
}


def mamba_lm(**attention):
    torch.manual_seed(0)
    cfg = {"num_heads": 2, "causal": True, "rotary_emb_dim": 4} | attention
    config = MambaConfig(d_model=16, n_layer=3, vocab_size=32, attn_layer_idx=[1], attn_cfg=cfg)
    return MambaLM(config).eval()


@pytest.mark.parametrize("family", STORED)
def test_the_mean_map_of_every_prompt_as_if_alone(tiny_model, tmp_path, family):
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    stored = STORED[family].split()
    with ssmlens.capture(model, IDS, tmp_path / "run.h5") as captured:
        assert captured.layers == tuple(i for i, what in enumerate(stored) if what != "-")
        assert len(captured.block_kinds) == len(stored)
        for index in captured.layers:
            layer, what = captured.layer(index), stored[index]
            assert layer.kind == ("attention" if what == "attention" else "mamba")
            assert ("delta" in layer) == layer.has_operands == (what != "attention")
            assert ("softmax_attention_map" in layer) == (what == "both")
            assert ({*OF_HEADS} <= {*layer.names}) == (what != "mamba")
            if what == "attention":
                assert {*layer.names} == {
                    *("attention_map", "map_error", "channel_agreement", *OF_HEADS),
                    *("closure_error", "closure_worst_token"),
                }
                assert layer.operator == "softmax"
                assert layer.maps == ("map",)
                assert (layer.read("map_error") < 1e-6).all()
                closed = layer.read("closure_error")
                assert (closed < 1e-5).all() or layer.attributes["closure_reason"]
                assert np.isnan(closed).all() == bool(layer.attributes["closure_reason"])
                assert layer.attributes["adapter"] == "softmax attention"
                assert layer.attributes["mixer"].endswith("Attention")
        for p, ids in enumerate(IDS):
            with torch.no_grad():
                outputs = model(torch.tensor([ids]), output_attentions=True, use_cache=False)
            weights = [w for w in outputs.attentions if w is not None]
            attending = [i for i, what in enumerate(stored) if what in ("attention", "both")]
            for index, one in zip(attending, weights, strict=True):
                name = "attention_map" if stored[index] == "attention" else "softmax_attention_map"
                kept = captured.layer(index).read(name)[p]
                exact = one[0].mean(0).numpy()
                np.testing.assert_allclose(kept[: len(ids), : len(ids)], exact, 1e-4, 1e-6)
                assert np.count_nonzero(kept) <= len(ids) * (len(ids) + 1) / 2
    assert verify(tmp_path / "run.h5") == []


def test_attention_of_mamba_lm_in_batches_shards_and_after_a_stop(tmp_path, monkeypatch):
    model = mamba_lm()
    with ssmlens.capture(model, IDS, tmp_path / "whole") as whole:
        digest, attention = whole.digest, whole.layer(1).read("attention_map")
        np.testing.assert_allclose(attention[0].sum(1), 1, rtol=1e-5)
        assert whole.block_kinds == ["mamba", "attention", "mamba"]
    assert ssmlens.capture(model, IDS, tmp_path / "run", shard=(2, 3)) is None
    assert ssmlens.capture(model, IDS, tmp_path / "run", shard=(3, 3)) is None

    def stop(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ssmlens.capture(model, IDS, tmp_path / "run", shard=(1, 3), progress=stop)
    with ssmlens.capture(model, IDS, tmp_path / "run", resume=True) as captured:
        assert captured.digest == digest
    monkeypatch.setattr(module, "_BATCH_TOKENS", 7)
    with ssmlens.capture(model, IDS, tmp_path / "batches", layers=[1]) as batches:
        assert batches.layers == (1,)
        np.testing.assert_allclose(batches.layer(1).read("attention_map"), attention, 1e-4, 1e-6)


def test_without_eager_attention_it_is_said_once_how_to_get_maps(tiny_model, tmp_path, caplog):
    model = tiny_model("transformers FalconH1Mixer")
    model.set_attn_implementation("sdpa")
    with caplog.at_level(logging.INFO, logger="ssmlens"):
        with ssmlens.capture(model, IDS, tmp_path / "run") as captured:
            assert captured.layers == (0, 1, 2)
            assert captured.block_kinds == ["mamba+attention"] * 3
            assert "softmax_attention_map" not in captured.layer(2)
        (said,) = [record.getMessage() for record in caplog.records]
        ssmlens.capture(model, IDS, tmp_path / "other", layers=[1]).close()
    assert said.startswith(
        'no attention maps of blocks 0, 1, 2: model.set_attn_implementation("eager")'
    )
    assert caplog.records[1].getMessage().startswith("no attention maps of blocks 1:")


def test_attention_that_sees_padding_is_refused(tmp_path):
    model = mamba_lm()
    model.backbone.layers[1].mixer.causal = False
    with pytest.raises(UsageError, match=r"layer 1: its attention is not causal.*one length"):
        ssmlens.capture(model, IDS, tmp_path / "run")
    with ssmlens.capture(model, [ids[:1] * 3 for ids in IDS], tmp_path / "same") as captured:
        assert (captured.layer(1).read("attention_map") > 0).all()


def test_how_far_heads_reach_is_not_kept_where_they_look_ahead(tmp_path):
    model = mamba_lm()
    ids = [IDS[0], IDS[0][::-1]]
    with ssmlens.capture(model, ids, tmp_path / "causal") as captured:
        late = captured.layer(1).read("head_reach")[:, :, -2:]
        assert (late >= 0).all()
        assert (late > 0).any()
    model.backbone.layers[1].mixer.causal = False
    with ssmlens.capture(model, ids, tmp_path / "both") as captured:
        layer = captured.layer(1)
        assert {*OF_HEADS} - {*layer.names} == {"head_reach"}
        np.testing.assert_allclose(
            layer.read("head_first_magnitude").mean(1), layer.read("attention_map")[:, :, 0], 1e-5
        )
        ranking = ssmlens.rank_heads(captured, ["sink", "receptive_field"])
        reasons = [row.reason for row in ranking if row.operator == "softmax"]
        assert (
            reasons
            == ["receptive_field on 0 of 2 prompts: softmax attention has no attention_map"] * 2
        )
    assert verify(tmp_path / "both") == []


@pytest.mark.parametrize(("broken", "finite"), [("in_proj", "weights"), ("norm", "input")])
def test_attention_that_is_not_finite_is_marked(tmp_path, broken, finite):
    model = mamba_lm()
    block = model.backbone.layers[1]
    with torch.no_grad():
        (block.norm if broken == "norm" else block.mixer.in_proj).weight[-1] = torch.nan
    with ssmlens.capture(model, IDS, tmp_path / "run") as captured:
        layer = captured.layer(1)
        assert layer.state == finite
        # a value that is not finite leaves the weights of attention as they are
        assert np.isnan(layer.read("attention_map")[0]).any() == (broken == "norm")
        assert not layer.read("attention_map")[1, 4:].any()
        magnitude = layer.read("head_row_magnitude")
        assert np.isnan(magnitude[0]).all() == (broken == "norm")
        assert not magnitude[1, :, 4:].any()
        assert (captured.layer(0).state, captured.layer(2).state) == ("yes", "input")
    assert verify(tmp_path / "run") == []


def test_attention_that_is_never_called_is_told(tmp_path):
    model = mamba_lm()
    block = model.backbone.layers[1]
    block.forward = lambda hidden, residual: (hidden, residual)
    with pytest.raises(UsageError, match=r"without calling its layer backbone\.layers\.1\.mixer"):
        ssmlens.capture(model, IDS, tmp_path / "run")


def test_weights_that_are_nowhere_have_no_digest(tmp_path):
    model = mamba_lm()
    model.backbone.norm_f.to("meta")
    with pytest.raises(UsageError, match=r"weights are offloaded .*digest of all"):
        ssmlens.capture(model, IDS, tmp_path / "run")


def test_no_cache_is_filled(tiny_model, tmp_path):
    model, asked = tiny_model("transformers BambaMixer"), []
    model.register_forward_pre_hook(lambda _, args, kwargs: asked.append(kwargs), with_kwargs=True)
    ssmlens.capture(model, IDS, tmp_path / "run", layers=[0]).close()
    assert asked == [{"use_cache": False}]


def test_the_mean_of_half_precision_weights_is_not_rounded_again(tiny_model, tmp_path):
    model = tiny_model("transformers BambaMixer").bfloat16()
    model.set_attn_implementation("eager")
    with ssmlens.recording(model) as rec, torch.no_grad():
        model(torch.tensor(IDS[:1]), use_cache=False)
    wanted = rec[1].operands.weights.float().mean(1)[0].numpy()
    with ssmlens.capture(model, IDS[:1], tmp_path / "run.h5") as captured:
        np.testing.assert_allclose(captured.layer(1).attention_map(0), wanted, rtol=1e-6)
