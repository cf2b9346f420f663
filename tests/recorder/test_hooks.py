"""Hybrids under `recording`: whose attention was recorded, what a model does unchanged, where tensors lie."""

import copy
import logging
import warnings

import numpy as np
import pytest
import torch
from mixers import build_mixer
from torch import nn

import ssmlens
from ssmlens.adapters.blocks import find_blocks
from ssmlens.errors import SsmlensError, UsageError
from ssmlens.models.attention import attention_operands
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

# Every family of transformers with attention, and the blocks that have it.
HYBRIDS = {
    "transformers BambaMixer": [1],
    "transformers FalconH1Mixer": [0, 1, 2],
    "transformers GraniteMoeHybridMambaLayer": [1],
    "transformers JambaMambaMixer": [1],
    "transformers NemotronHMamba2Mixer": [2],
    "transformers ZambaMambaMixer": [2, 4],
    "transformers Zamba2MambaMixer": [1],
}
BESIDE_A_MIXER = ("FalconH1", "Zamba")
IDS = torch.tensor([[13, 11, 14, 11, 15, 19, 12, 16, 15], [12, 17, 11, 18, 12, 18, 11, 18, 12]])


@pytest.fixture(params=HYBRIDS)
def hybrid(request, tiny_model):
    model = tiny_model(request.param)
    model.set_attn_implementation("eager")
    return model, HYBRIDS[request.param]


@pytest.fixture
def mamba_lm():
    torch.manual_seed(0)
    attention = {"num_heads": 2, "causal": True, "rotary_emb_dim": 4, "d_conv": 2}
    config = MambaConfig(
        d_model=16, n_layer=3, vocab_size=32, attn_layer_idx=[1], attn_cfg=attention
    )
    return MambaLM(config).eval()


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    return [h for m in model.modules() for kind in kinds for h in getattr(m, kind)]


def test_weights_are_those_that_transformers_collects_itself(hybrid):
    model, blocks = hybrid
    with torch.no_grad():
        wanted = model(IDS, output_attentions=True, use_cache=False).attentions
        wanted = [weights for weights in wanted if weights is not None]
        with ssmlens.recording(model) as rec:
            model(IDS, use_cache=False)
    assert sorted(rec.softmax_attention) == blocks
    for layer, weights in zip(blocks, wanted, strict=True):
        record = rec.softmax_attention[layer]
        assert torch.equal(record.operands.weights, weights)
        torch.testing.assert_close(record.attention_map, weights.mean(1))
        assert not record.operands.weights.requires_grad
        beside = any(name in type(model).__name__ for name in BESIDE_A_MIXER)
        assert (rec[layer] is record) == (not beside)
        if beside:
            assert rec[layer].closure_error < 1e-5
        if record.closure.reason:
            assert "cannot be read" in record.closure.reason or "does more" in record.closure.reason
            assert np.isnan(record.closure_error)
        else:
            assert record.closure_error < 1e-5


def test_nothing_changes_in_training_with_dropout(hybrid):
    model, _ = hybrid
    model.train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5

    def run():
        torch.manual_seed(1)
        model.zero_grad()
        logits = model(IDS, use_cache=False).logits
        logits.square().sum().backward()
        return logits, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    logits, gradients = run()
    with ssmlens.recording(model) as rec:
        again, gradients_again = run()
    assert torch.equal(logits, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))
    assert model.training
    i, j = torch.tril_indices(9, 9)
    seen = next(iter(rec.softmax_attention.values())).operands.weights[:, :, i, j]
    assert 0.3 < (seen == 0).float().mean() < 0.7


def test_generate_records_the_prefill_and_says_so_once(hybrid, caplog):
    model, blocks = hybrid
    try:
        with torch.no_grad():
            model(IDS, use_cache=True)
    except KeyError as error:  # transformers 5.14 has no cache for the MLP blocks of NemotronH
        pytest.skip(f"this transformers has no cache for its {error} blocks")
    with ssmlens.recording(model) as rec, torch.no_grad():
        model(IDS)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, logger="ssmlens"):
        warnings.simplefilter("ignore")  # transformers' remarks on a model without a stop token
        with ssmlens.recording(model) as generating:
            made = model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert made.shape == (2, 13)
    said = [r.getMessage() for r in caplog.records if r.name == "ssmlens"]
    assert len(said) == 1
    assert said[0].startswith("only the prefill is recorded: a cached step")
    assert generating.layers == rec.layers
    for layer in rec.layers:
        if layer in blocks:
            got = generating.softmax_attention[layer].attention_map
            torch.testing.assert_close(got, rec.softmax_attention[layer].attention_map)
        if rec[layer] is not rec.softmax_attention.get(layer):
            torch.testing.assert_close(generating[layer].operands.B, rec[layer].operands.B)
            assert generating[layer].closure_error < 1e-5


def test_a_bare_cached_step_of_attention_is_refused(tiny_model):
    model = tiny_model("transformers BambaMixer")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        cache = model(IDS, use_cache=True).past_key_values
        with (
            pytest.raises(UsageError, match="layer 1: a cached step is not recorded"),
            ssmlens.recording(model, layers=[1]),
        ):
            model(IDS[:, -1:], past_key_values=cache, use_cache=True)
    assert not hooks(model)


def test_left_padding_is_as_the_model_makes_it(tiny_model):
    model, mask = tiny_model("transformers BambaMixer"), torch.ones_like(IDS)
    model.set_attn_implementation("eager")
    mask[0, :3] = 0
    with ssmlens.recording(model) as rec, torch.no_grad():
        model(IDS, attention_mask=mask, use_cache=False)
    with ssmlens.recording(model) as alone, torch.no_grad():
        model(IDS[:1, 3:], use_cache=False)
    assert not rec[1].attention_map[0, 3:, :3].any()
    torch.testing.assert_close(rec[1].attention_map[:1, 3:, 3:], alone[1].attention_map)


def test_without_eager_attention_a_block_is_not_recorded_and_it_says_how(tiny_model):
    model = tiny_model("transformers JambaMambaMixer")
    with ssmlens.recording(model) as rec, torch.no_grad():
        model(IDS)
    assert rec.layers == [0, 2]
    assert rec.softmax_attention == {}
    with pytest.raises(UsageError, match=r"layer 1 was not recorded; .*set_attn_implementation\("):
        rec[1]


def test_the_hooks_are_gone_after_an_exception(hybrid):
    model, blocks = hybrid
    with pytest.raises(IndexError), ssmlens.recording(model):
        model(IDS + 1000, use_cache=False)
    site = next(b.attention for b in find_blocks(model) if b.attention)
    broken = site.module.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), ssmlens.recording(model):
        model(IDS, use_cache=False)
    broken.remove()
    assert not hooks(model)
    with ssmlens.recording(model, layers=blocks) as rec:
        model(IDS, use_cache=False)
        assert hooks(model)
    assert rec.layers == blocks
    assert not hooks(model)


def test_attention_of_mamba_lm_is_computed_from_its_input(mamba_lm):
    seen = []
    mha = mamba_lm.backbone.layers[1].mixer
    mha.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with ssmlens.recording(mamba_lm) as rec:
        mamba_lm(IDS)
    assert rec.layers == [0, 1, 2]
    record, ((hidden, output),) = rec[1], seen
    stale = type(record)(record.call)
    assert isinstance(output, torch.Tensor)
    assert torch.equal(record.call.given.hidden, hidden)
    assert repr(record) == "LayerRecord(layer 1, softmax attention, input (2, 9, 16))"
    with torch.no_grad():
        torch.testing.assert_close(record.operands.weights, attention_operands(hidden, mha).weights)
        assert record.closure_error < 1e-6
        torch.testing.assert_close(record.attention_map, record.operands.weights.mean(1))
        mha.in_proj.weight.mul_(2)
    with pytest.raises(SsmlensError, match="layer 1: the weights have changed since"):
        _ = stale.operands


def test_a_shared_module_is_recorded_under_the_block_that_ran():
    """As in Zamba, where the attention of several blocks is one module: with all blocks asked for, and with some."""

    class Block(nn.Module):
        def __init__(self, attention):
            super().__init__()
            self.mixer, self.shared = build_mixer("Mamba", d_model=8, d_state=2), attention

        def forward(self, x):
            return x + self.shared(x) + self.mixer(x)

    torch.manual_seed(0)
    attention = build_mixer("MHA", embed_dim=8, num_heads=2, causal=True)
    model, x = nn.Sequential(*[Block(attention) for _ in range(3)]), torch.randn(1, 5, 8)
    inputs = [x]
    with torch.no_grad():
        for block in model:
            inputs.append(block(inputs[-1]))
        wanted = [attention_operands(given, attention).weights for given in inputs[:3]]
        for layers in (None, [1], [0, 2]):
            with ssmlens.recording(model, layers) as rec:
                model(x)
            assert list(rec.softmax_attention) == rec.layers == (layers or [0, 1, 2])
            for layer in rec.layers:
                torch.testing.assert_close(
                    rec.softmax_attention[layer].operands.weights, wanted[layer]
                )
    assert not hooks(model)


def test_offloaded_weights_are_refused_by_name(mamba_lm):
    for layer in (1, 2):
        model = copy.deepcopy(mamba_lm)
        mixer = model.backbone.layers[layer].mixer
        mixer.out_proj.to("meta")
        with (
            pytest.raises(UsageError, match=f"layer {layer}: its weights are offloaded"),
            ssmlens.recording(model),
        ):
            pass
        assert not hooks(model)
        with ssmlens.recording(model, layers=[0]):
            assert hooks(model)


@pytest.mark.gpu
def test_layers_on_another_device_than_their_input(mamba_lm, tmp_path):
    """As accelerate dispatches models: a module moves what it is given inside its forward, and moves it back."""
    with torch.no_grad():
        wanted = mamba_lm(IDS).logits
    for block in mamba_lm.backbone.layers[1:]:
        mixer, forward = block.mixer.cuda(), block.mixer.forward
        mixer.forward = lambda x, forward=forward: forward(x.cuda()).to(x.device)
    with ssmlens.recording(mamba_lm) as rec, torch.no_grad():
        torch.testing.assert_close(mamba_lm(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    assert rec[2].operands.delta.is_cuda
    assert rec[2].closure_error < 1e-5
    assert rec[1].attention_map.is_cuda
    with ssmlens.capture(mamba_lm, IDS, tmp_path / "run.h5") as captured:
        assert captured.layers == (0, 1, 2)
    mamba_lm.backbone.layers[2].mixer.out_proj.cpu()
    with (
        pytest.raises(UsageError, match="layer 2: its weights lie on cpu, cuda:0"),
        ssmlens.recording(mamba_lm),
    ):
        pass
