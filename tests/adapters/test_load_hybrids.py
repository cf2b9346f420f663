"""Hybrids from folders: attention that puts out its weights, and mamba_ssm's published hybrid."""

import json

import pytest
import torch

import ssmlens
from ssmlens.adapters.load import load_model
from ssmlens.errors import UnsupportedModelError
from ssmlens.models import mamba_ssm_layout
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.store import verify

IDS = torch.tensor([[13, 11, 14, 11, 15], [12, 17, 11, 18, 12]])
FAMILIES = {
    "transformers BambaMixer": "mamba attention mamba",
    "transformers FalconH1Mixer": "mamba+attention mamba+attention mamba+attention",
    "transformers GraniteMoeHybridMambaLayer": "mamba attention mamba",
    "transformers JambaMambaMixer": "mamba attention mamba",
    "transformers NemotronHMamba2Mixer": "mamba mlp attention moe mamba",
    "transformers ZambaMambaMixer": "mamba mamba mamba+attention mamba mamba+attention",
    "transformers Zamba2MambaMixer": "mamba mamba+attention mamba",
    "transformers BailingHybridDeltaAttention": "delta_rule attention delta_rule",
    "transformers Glm5NextTextLinearAttention": "delta_rule attention delta_rule",
    "transformers KimiLinearDeltaAttention": "delta_rule attention delta_rule",
    "transformers OlmoHybridGatedDeltaNet": "delta_rule attention delta_rule",
    "transformers Qwen3NextGatedDeltaNet": "delta_rule attention delta_rule",
    "transformers Qwen3_5GatedDeltaNet": "delta_rule attention delta_rule",
    "transformers Qwen3_5MoeGatedDeltaNet": "delta_rule attention delta_rule",
    "transformers Qwen4ExpTextGatedDeltaNet": "delta_rule attention delta_rule",
    "transformers Lfm2ShortConv": "convolution attention convolution",
    "transformers Lfm2MoeShortConv": "convolution attention convolution",
    "transformers Lfm3ShortConv": "convolution attention convolution",
    "transformers MiniMaxLightningAttention": "linear_attention attention linear_attention",
    "transformers RecurrentGemmaRecurrentBlock": "recurrence attention recurrence",
    "transformers RwkvSelfAttention": "recurrence recurrence recurrence",
}
# The config.json of state-spaces/mamba2attn-2.7b.
MAMBA2ATTN = {
    "d_model": 2560,
    "d_intermediate": 0,
    "n_layer": 64,
    "vocab_size": 50277,
    "ssm_cfg": {"layer": "Mamba2"},
    "attn_layer_idx": [9, 18, 27, 36, 45, 56],
    "attn_cfg": {
        "causal": True,
        "d_conv": 4,
        "head_dim": 128,
        "num_heads": 30,
        "out_proj_bias": False,
        "qkv_proj_bias": False,
        "rotary_emb_dim": 64,
    },
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_hybrid_is_loaded_and_captured(tiny_model, cli, tmp_path, capfd, family):
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    if "attention" in FAMILIES[family].split():
        assert loaded.config._attn_implementation == "eager"
    with torch.no_grad():
        got, wanted = (m(IDS, use_cache=False).logits for m in (loaded, model))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in IDS.tolist()))
    out = tmp_path / "run.h5"
    said = cli(
        "capture", "--model", tmp_path / "model", "--prompts", prompts, "--out", out, "--json"
    )
    assert said.code == 0, said.err
    kinds = [kind.replace("_", " ") for kind in FAMILIES[family].split()]
    with ssmlens.open_capture(out) as captured:
        assert captured.block_kinds == kinds
        for index, kind in enumerate(kinds):
            if "attention" in kind.split("+"):
                layer, alone = captured.layer(index), kind == "attention"
                weights = layer.read("attention_map" if alone else "softmax_attention_map")
                assert abs(weights.sum(2) - 1).max() < 1e-5
    errors = said.json["closure_error"]
    mixers = [i for i, kind in enumerate(kinds) if kind not in ("attention", "mlp", "moe")]
    assert all(errors[str(index)] < 1e-5 for index in mixers)
    assert max(error for error in errors.values() if error is not None) < 1e-5
    assert verify(out) == []
    capfd.readouterr()  # transformers' progress bar while it saves


def test_the_published_hybrid_has_the_shapes_of_its_configuration():
    skeleton = mamba_ssm_layout.make_skeleton(MAMBA2ATTN, "torch", torch.float32)
    shapes = {name: tuple(p.shape) for name, p in skeleton.named_parameters()}
    for layer in range(64):
        prefix = f"backbone.layers.{layer}.mixer."
        own = {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}
        if layer in MAMBA2ATTN["attn_layer_idx"]:
            assert own == {
                "in_proj.weight": (3 * 30 * 128, 2560),
                "conv1d.weight": (3 * 30 * 128, 1, 4),
                "conv1d.bias": (3 * 30 * 128,),
                "out_proj.weight": (2560, 30 * 128),
            }
        else:
            assert own["in_proj.weight"] == (2 * 5120 + 2 * 128 + 80, 2560)
    assert 2.65e9 < sum(p.numel() for p in skeleton.parameters()) < 2.75e9


def test_a_small_one_of_its_kind_is_loaded_and_captured(cli, tmp_path):
    torch.manual_seed(0)
    config = MAMBA2ATTN | {"d_model": 32, "n_layer": 3, "vocab_size": 32, "attn_layer_idx": [1]}
    config["ssm_cfg"] = {"layer": "Mamba2", "d_state": 8, "headdim": 16}
    config["attn_cfg"] = MAMBA2ATTN["attn_cfg"] | {
        "head_dim": 16,
        "num_heads": 2,
        "rotary_emb_dim": 8,
    }
    model = MambaLM(MambaConfig.from_dict(config))
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(IDS).logits, model(IDS).logits)
    out = tmp_path / "run.h5"
    said = cli("capture", "--model", tmp_path, "--task", "repeat", "--length", 4, "--out", out)
    assert said.code == 0, said.err
    assert "2 layers and 1 of softmax attention, 4 prompts, closure error at most" in said.out
    with ssmlens.open_capture(out) as captured:
        assert captured.block_kinds == ["mamba", "attention", "mamba"]
        assert captured.layer(1).kind == "attention"
    assert verify(out) == []


def test_xlstm_is_refused_by_name(tmp_path, capfd):
    """Its norm takes the mean over a head away: more than what gate and norm multiply here."""
    transformers = pytest.importorskip("transformers")
    config = transformers.xLSTMConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_heads=2, num_blocks=2
    )
    transformers.xLSTMForCausalLM(config).save_pretrained(tmp_path)
    capfd.readouterr()
    with pytest.raises(UnsupportedModelError, match="its token mixers are xLSTMLayer"):
        load_model(tmp_path)
