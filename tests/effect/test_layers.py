"""`LayerEffects` in a capture, against plain module hooks and explicit matrices, prompt by prompt."""

import h5py
import numpy as np
import pytest
import torch
from edited_layer import EditedLayer

import ssmlens
from ssmlens.adapters.blocks import find_blocks
from ssmlens.effect.layers import LayerEffects
from ssmlens.errors import UsageError
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.names import ARRAYS, EFFECT
from ssmlens.recorder import capture as module
from ssmlens.recorder.prompts import Prompts
from ssmlens.store import verify

NAMES = ("ablation_effect", "mean_ablation_effect", "cross_talk_effect")
# A generation each, a delta rule whose attention cannot be computed again, and a hybrid.
FAMILIES = ("ssmlens Mamba", "transformers Mamba2Mixer", "transformers Qwen3_5GatedDeltaNet")
HYBRID = "transformers BambaMixer"
# Of different length, one without targets, one whose last token has one.
PROMPTS = Prompts(
    [[13, 11, 14, 11, 15, 19, 12], [16, 15, 13], [18, 17], [19, 17, 19, 13, 12]],
    target=[[-1, -1, 0, 1, -1, 3, 2], [-1, 0, 1], [-1, -1], [-1, -1, -1, -1, 4]],
)


@pytest.fixture(params=[*FAMILIES, HYBRID])
def model(request, tiny_model):
    return eager(tiny_model(request.param))


@pytest.fixture
def mamba(tiny_model):
    return tiny_model(FAMILIES[0])


def eager(model):
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    return model


def effects(captured):
    with captured:
        return {i: [captured.layer(i).read(n) for n in NAMES] for i in captured.layers}


def right(model, prompt):
    """Mean log-probability of the tokens at the targets, of one prompt by itself."""
    tokens, target = PROMPTS.tokens[prompt], PROMPTS.target[prompt]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double()
    said = [
        logits[q].log_softmax(0)[tokens[t]].item() for q, t in enumerate(target or ()) if t >= 0
    ]
    return np.mean(said) if said else np.nan


def hooked(model, prompt, site, change):
    """`right` where the mixer's output goes through `change`."""

    def hook(mixer, args, kwargs, output):
        first = output[0] if isinstance(output, tuple) else output
        new = change(first, mixer, args, kwargs).to(first.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = site.module.register_forward_hook(hook, with_kwargs=True)
    try:
        return right(model, prompt)
    finally:
        handle.remove()


def zero(output, *_):
    return torch.zeros_like(output)


def mean(output, *_):
    return output.mean(1, keepdim=True).expand_as(output)


def test_effects_are_those_of_hooks_and_of_a_diagonal_matrix(model, tmp_path):
    captured = ssmlens.capture(model, PROMPTS, tmp_path / "run", further=LayerEffects)
    for block in find_blocks(model):
        site = block.mixer or block.attention

        def diagonal(output, mixer, args, kwargs, site=site):
            layer = EditedLayer(site, site.adapter.read_input(mixer, args, kwargs))
            return layer.put_out(matrix=lambda M: M.tril().triu())

        changes = [zero, mean, *([diagonal] if block.mixer else [])]
        for name, change in zip(NAMES, changes, strict=False):
            stored = captured.layer(block.layer).read(name)
            for prompt in range(len(PROMPTS)):
                wanted = hooked(model, prompt, site, change) - right(model, prompt)
                assert stored[prompt] == pytest.approx(wanted, abs=1e-5, nan_ok=True), (name, block)
            assert np.isnan(stored).tolist() == [False, False, True, False]
    moved = [captured.layer(block.layer).read(NAMES[2]) for block in find_blocks(model)]
    assert np.nanmax(np.abs(moved)) > 1e-3
    captured.close()
    assert verify(tmp_path / "run") == []


def test_cross_talk_of_attention_is_its_weights_off_the_diagonal(tmp_path):
    torch.manual_seed(0)
    cfg = {"num_heads": 2, "causal": True}
    model = MambaLM(
        MambaConfig(d_model=16, n_layer=1, vocab_size=32, attn_layer_idx=[0], attn_cfg=cfg)
    ).eval()
    site = find_blocks(model)[0].attention

    def own_value(output, mixer, args, kwargs):  # softmax times the token's own value
        hidden = args[0] if args else kwargs["x"]
        q, k, v = mixer.in_proj(hidden).unflatten(2, (3, 2, 8)).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / 8**0.5
        ahead = torch.ones(scores.shape[-2:]).triu(1).bool()
        weights = scores.masked_fill(ahead, -torch.inf).softmax(-1).diagonal(dim1=2, dim2=3)
        return mixer.out_proj((weights.transpose(1, 2).unsqueeze(3) * v).flatten(2))

    found = effects(ssmlens.capture(model, PROMPTS, tmp_path / "run.h5", further=LayerEffects))
    wanted = [hooked(model, p, site, own_value) - right(model, p) for p in range(len(PROMPTS))]
    np.testing.assert_allclose(found[0][2], wanted, atol=1e-5)
    assert np.nanmax(np.abs(wanted)) > 1e-5


def test_a_layer_that_cannot_be_edited_says_why(tiny_model, tmp_path):
    model = eager(tiny_model("transformers Qwen3_5GatedDeltaNet"))
    with ssmlens.capture(model, PROMPTS, tmp_path / "run.h5", further=LayerEffects) as captured:
        (attention,) = [i for i in captured.layers if captured.layer(i).operator == "softmax"]
        layer = captured.layer(attention)
        assert np.isnan(layer.read("cross_talk_effect")).all()
        reason = layer.attributes["cross_talk_effect_reason"]
        assert "does more with its heads than mix tokens" in reason
        assert np.isfinite(layer.read("ablation_effect")[[0, 1, 3]]).all()
        others = [captured.layer(i).attributes for i in captured.layers if i != attention]
        assert not any(name.endswith("effect_reason") for told in others for name in told)


@pytest.mark.parametrize("tokens", [1, 14])
def test_batches_shards_and_a_stop_change_nothing(mamba, tmp_path, monkeypatch, tokens):
    whole = effects(ssmlens.capture(mamba, PROMPTS, tmp_path / "one", further=LayerEffects))
    monkeypatch.setattr(module, "_BATCH_TOKENS", tokens)
    monkeypatch.setattr(module, "_LAYERS_TOGETHER", 2)
    with ssmlens.capture(mamba, PROMPTS, tmp_path / "parts", further=LayerEffects) as parts:
        digest = parts.digest
        for layer, wanted in effects(parts).items():
            np.testing.assert_allclose(whole[layer], wanted, atol=1e-5)
    for shard in ((2, 2), (1, 2)):
        shared = ssmlens.capture(
            mamba, PROMPTS, tmp_path / "run.h5", further=LayerEffects, shard=shard
        )
    assert shared is not None
    with shared:
        assert shared.digest == digest

    def stop(done, total, what):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ssmlens.capture(mamba, PROMPTS, tmp_path / "stopped", further=LayerEffects, progress=stop)
    with pytest.raises(UsageError, match="further_arrays"):
        ssmlens.capture(mamba, PROMPTS, tmp_path / "stopped", resume=True)
    resumed = ssmlens.capture(
        mamba, PROMPTS, tmp_path / "stopped", further=LayerEffects, resume=True
    )
    assert resumed is not None
    with resumed:
        assert resumed.digest == digest
    assert verify(tmp_path / "stopped") == []


def test_a_file_says_what_the_arrays_are(mamba, tmp_path):
    ssmlens.capture(mamba, PROMPTS, tmp_path / "run.h5", further=LayerEffects).close()
    assert {*ARRAYS[EFFECT]} == {*NAMES}
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["further_arrays"].decode() == ",".join(NAMES)
        for name in NAMES:
            stored = file[f"layers/000/{name}"]
            assert (stored.attrs["role"], stored.attrs["axes"]) == (b"effect", b"prompt")
            assert stored.shape == (len(PROMPTS),)


def test_without_effects_a_file_is_as_before(mamba, tmp_path):
    with ssmlens.capture(mamba, PROMPTS, tmp_path / "run.h5") as captured:
        assert "further_arrays" not in captured.attributes
        assert not {*NAMES} & {*captured.layer(0).names}


def test_prompts_without_any_target_are_refused(mamba, tmp_path):
    for prompts in ([[3, 1, 4]], Prompts([[3, 1, 4]], target=[[-1, -1, -1]])):
        with pytest.raises(UsageError, match="no prompt has one: use the prompts of a task"):
            ssmlens.capture(mamba, prompts, tmp_path / "run.h5", further=LayerEffects)
        assert list(tmp_path.iterdir()) == []


def test_a_batch_of_one_without_targets_is_nan(mamba, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_TOKENS", 1)
    found = effects(ssmlens.capture(mamba, PROMPTS, tmp_path / "run", further=LayerEffects))
    for of_layer in found.values():
        assert np.isnan(np.array(of_layer)[:, 2]).all()


def test_the_model_is_left_as_it_was(mamba, tmp_path):
    ids = torch.tensor([PROMPTS.tokens[0]])
    with torch.no_grad():
        before = mamba(ids).logits
        ssmlens.capture(mamba, PROMPTS, tmp_path / "run.h5", further=LayerEffects).close()
        assert torch.equal(mamba(ids).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mamba.modules())
    assert not any("forward" in vars(m) for m in mamba.modules())
