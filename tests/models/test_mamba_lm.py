"""MambaLM against transformers with the same weights, and against its definition in float64."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from ssmlens.errors import UnsupportedModelError
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

MAMBA1 = {"d_state": 4}
MAMBA2 = {"layer": "Mamba2", "d_state": 4, "headdim": 8}


def model_of(dtype=None, **config):
    torch.manual_seed(0)
    values = {"d_model": 16, "n_layer": 2, "vocab_size": 13, "ssm_cfg": MAMBA1}
    model = MambaLM(MambaConfig(**(values | config)), dtype=dtype).eval()
    for name, parameter in model.named_parameters():
        if name.split(".")[-2].startswith("norm"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def names(model):
    return set(model.state_dict())


def test_state_dict_of_mamba_ssm():
    block = ["norm.weight", "mixer.A_log", "mixer.D", "mixer.in_proj.weight"]
    block += ["mixer.conv1d.weight", "mixer.conv1d.bias", "mixer.x_proj.weight"]
    block += ["mixer.dt_proj.weight", "mixer.dt_proj.bias", "mixer.out_proj.weight"]
    outside = {"backbone.embedding.weight", "backbone.norm_f.weight", "lm_head.weight"}
    layers = {f"backbone.layers.{i}.{name}" for i in range(2) for name in block}
    assert names(model_of()) == outside | layers
    more = names(model_of(d_intermediate=20, rms_norm=False)) - (outside | layers)
    extra = ["norm.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc2.weight"]
    assert more == {f"backbone.layers.{i}.{name}" for i in range(2) for name in extra} | {
        "backbone.norm_f.bias"
    }


def normalise(norm, x):
    if isinstance(norm, torch.nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    return x + norm.bias if isinstance(norm, torch.nn.LayerNorm) else x


def logits_by_definition(model, ids):
    """x ← x + mixer(norm(x)), x ← x + mlp(norm2(x)), in float64; the mixers have their own tests."""
    x = model.backbone.embedding.weight[ids]
    for block in model.backbone.layers:
        x = x + block.mixer(normalise(block.norm, x))
        if model.config.d_intermediate:
            y, gate = (normalise(block.norm2, x) @ block.mlp.fc1.weight.T).chunk(2, dim=-1)
            x = x + (y * gate * torch.sigmoid(gate)) @ block.mlp.fc2.weight.T
    return normalise(model.backbone.norm_f, x) @ model.lm_head.weight.T


@pytest.mark.parametrize("ssm_cfg", [MAMBA1, MAMBA2], ids=["Mamba1", "Mamba2"])
@pytest.mark.parametrize(
    ("rms_norm", "residual_in_fp32", "fused_add_norm"),
    list(itertools.product([True, False], repeat=3)),
)
@pytest.mark.parametrize("d_intermediate", [0, 20])
def test_every_option_by_definition(
    ssm_cfg, rms_norm, residual_in_fp32, fused_add_norm, d_intermediate
):
    model = model_of(
        dtype=torch.float64,
        ssm_cfg=ssm_cfg,
        rms_norm=rms_norm,
        residual_in_fp32=residual_in_fp32,
        fused_add_norm=fused_add_norm,
        d_intermediate=d_intermediate,
    )
    ids = torch.randint(0, 13, (2, 9))
    assert torch.allclose(model(ids).logits, logits_by_definition(model, ids), atol=1e-10)


def test_attention_stands_where_it_is_asked_for():
    cfg = {"causal": True, "num_heads": 2, "rotary_emb_dim": 4, "d_conv": 2}
    model = model_of(
        dtype=torch.float64, n_layer=4, attn_layer_idx=[1, 3], attn_cfg=cfg, d_intermediate=20
    )
    classes = [type(block.mixer).__name__ for block in model.backbone.layers]
    assert classes == ["Mamba", "MHA", "Mamba", "MHA"]
    assert "backbone.layers.1.mixer.conv1d.weight" in names(model)
    assert not [name for name in names(model) if "rotary" in name]
    ids = torch.randint(0, 13, (2, 9))
    assert torch.allclose(model(ids).logits, logits_by_definition(model, ids), atol=1e-10)


@torch.no_grad()
def test_logits_of_a_hybrid_by_mamba_ssms_own_kernels():
    stored = np.load(Path(__file__).parents[1] / "fixtures" / "mamba_ssm_mixers" / "hybrid.npz")
    attention = {"causal": True, "d_conv": 4, "head_dim": 16, "num_heads": 4}
    config = MambaConfig(
        d_model=64,
        d_intermediate=96,
        n_layer=3,
        vocab_size=32,
        ssm_cfg={"layer": "Mamba2", "d_state": 16, "headdim": 16},
        attn_layer_idx=[1],
        attn_cfg=attention | {"qkv_proj_bias": False, "out_proj_bias": False},
    )
    state = {
        name.removeprefix("weights/"): torch.from_numpy(stored[name])
        for name in stored.files
        if name.startswith("weights/")
    }
    model = MambaLM(config)
    model.load_state_dict(state, strict=True)
    logits = model(torch.from_numpy(stored["input_ids"])).logits.numpy()
    apart = np.linalg.norm(logits - stored["logits"]) / np.linalg.norm(stored["logits"])
    assert apart < 5e-3  # Mamba-2's kernels multiply in TF32


@pytest.mark.parametrize(("residual_in_fp32", "dtype"), [(True, "float32"), (False, "bfloat16")])
@pytest.mark.parametrize("fused_add_norm", [True, False])
def test_the_residual_has_the_dtype_that_is_asked_for(residual_in_fp32, dtype, fused_add_norm):
    model = model_of(
        dtype=torch.bfloat16,
        residual_in_fp32=residual_in_fp32,
        fused_add_norm=fused_add_norm,
        d_intermediate=20,
    )
    seen = []
    for block in model.backbone.layers:
        block.register_forward_hook(lambda _, __, out: seen.append((out[0].dtype, out[1].dtype)))
    logits = model(torch.randint(0, 13, (1, 5))).logits
    assert logits.dtype == torch.bfloat16
    assert seen == [(torch.bfloat16, getattr(torch, dtype))] * 2


def test_fused_norm_reads_the_unrounded_sum():
    """In bfloat16 the sum of two halves differs before and after rounding, and so does the norm."""
    config = {"dtype": torch.bfloat16, "residual_in_fp32": True}
    outputs = []
    for fused in (True, False):
        model = model_of(fused_add_norm=fused, **config)
        block = model.backbone.layers[0]
        seen = []
        block.norm.weight.data.fill_(1)
        block.mixer.register_forward_hook(lambda _, args, __, seen=seen: seen.append(args[0]))
        hidden = torch.tensor([[[1.0] * 8 + [0.0] * 8]], dtype=torch.bfloat16)
        residual = torch.tensor([[[2.0**-9] * 16]])
        block(hidden, residual)
        total = hidden.float() + residual if fused else (hidden.float() + residual).bfloat16()
        scale = (total.float().square().mean() + 1e-5).sqrt()
        assert torch.equal(seen[0], (total.float() / scale).bfloat16())
        outputs.append(total)
    assert not torch.equal(*[o.float() for o in outputs])


def test_vocabulary_is_padded_and_head_tied():
    tied = model_of(pad_vocab_size_multiple=8)
    assert tied(torch.zeros(1, 1, dtype=torch.long)).logits.shape == (1, 1, 16)
    assert tied.lm_head.weight is tied.backbone.embedding.weight
    untied = model_of(pad_vocab_size_multiple=1, tie_embeddings=False)
    assert untied(torch.zeros(1, 1, dtype=torch.long)).logits.shape == (1, 1, 13)
    assert untied.lm_head.weight is not untied.backbone.embedding.weight


def test_drawn_as_in_mamba_ssm():
    torch.manual_seed(0)
    config = MambaConfig(d_model=128, n_layer=4, vocab_size=512, d_intermediate=256)
    model = MambaLM(MambaConfig(**{**vars(config), "ssm_cfg": {"bias": True}}))
    assert abs(model.backbone.embedding.weight.std() - 0.02) < 0.001
    block = model.backbone.layers[1]
    for weight, depth in (
        (block.mixer.in_proj.weight, 1),
        (block.mixer.out_proj.weight, 4),
        (block.mlp.fc1.weight, 1),
        (block.mlp.fc2.weight, 4),
    ):
        expected = (3 * weight.shape[1] * depth) ** -0.5  # uniform in ±1/√fan_in, over √depth
        assert abs(weight.std() / expected - 1) < 0.02
    assert (block.mixer.in_proj.bias == 0).all()
    assert (block.mixer.out_proj.bias == 0).all()
    assert (block.mixer.dt_proj.bias != 0).any()
    assert (block.mixer.conv1d.bias != 0).any()


def test_a_padded_batch_equals_its_rows():
    model = model_of(n_layer=3)
    ids = torch.randint(0, 13, (2, 11))
    both = model(ids).logits
    assert torch.allclose(both[1:, :7], model(ids[1:, :7]).logits, atol=1e-6)
    assert torch.allclose(both[:1], model(ids[:1]).logits, atol=1e-6)


def test_gradients_are_finite():
    model = model_of(n_layer=3, d_intermediate=20)
    model(torch.randint(0, 13, (2, 19))).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def copy_into(theirs, ours):
    state = {n.replace("embedding.", "embeddings."): t for n, t in ours.state_dict().items()}
    if "lm_head.weight" not in dict(theirs.named_parameters()):
        state.pop("lm_head.weight")
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    return theirs.eval()


@pytest.mark.parametrize("bias", [False, True])
def test_equals_transformers_mamba(bias):
    from transformers import MambaConfig as TheirConfig
    from transformers import MambaForCausalLM

    ours = model_of(ssm_cfg=MAMBA1 | {"bias": bias}, vocab_size=16)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 16, "state_size": 4}
    theirs = copy_into(MambaForCausalLM(TheirConfig(**shape, use_bias=bias)), ours)
    ids = torch.randint(0, 16, (3, 23))
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-5)


@pytest.mark.parametrize("ngroups", [1, 2])
def test_equals_transformers_mamba2(ngroups):
    from transformers import Mamba2Config as TheirConfig
    from transformers import Mamba2ForCausalLM

    ours = model_of(ssm_cfg=MAMBA2 | {"ngroups": ngroups}, vocab_size=16)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 16, "state_size": 4}
    shape |= {"num_heads": 4, "head_dim": 8, "n_groups": ngroups, "tie_word_embeddings": True}
    theirs = copy_into(Mamba2ForCausalLM(TheirConfig(**shape, chunk_size=8)), ours)
    ids = torch.randint(0, 16, (3, 23))
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-5)


def test_what_it_cannot_be_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match="attn_cfg lacks what MHA needs: num_heads"):
        MambaConfig(attn_layer_idx=[9, 18])
    with pytest.raises(UnsupportedModelError, match=r"attn_cfg has .* MHA does not take: window"):
        MambaConfig(attn_layer_idx=[1], attn_cfg={"num_heads": 2, "window": 8})
    with pytest.raises(UnsupportedModelError, match="'Mamba9'; supported: Mamba1, Mamba2, Mamba3"):
        MambaConfig(ssm_cfg={"layer": "Mamba9"})
    with pytest.raises(UnsupportedModelError, match="does not know: d_mystery"):
        MambaConfig.from_dict({"d_model": 8, "d_mystery": 1})
    with pytest.raises(UnsupportedModelError, match="mystery"):
        MambaLM(MambaConfig(d_model=8, n_layer=1, ssm_cfg={"mystery": 1}))
