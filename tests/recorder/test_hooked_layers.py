"""Hooks and adapters on the layers inside a mixer: they act on the model, and what is recorded closes over them."""

import logging

import pytest
import torch
from torch import nn

import ssmlens
from ssmlens.models.submodules import is_plain
from ssmlens.recorder.layer_record import log

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7, 1, 8, 2, 8, 1, 8, 2]])
LAYERS = {
    "ssmlens Mamba": ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"),
    "ssmlens Mamba2": ("in_proj", "conv1d", "norm", "out_proj"),
    "ssmlens Mamba3": ("in_proj", "B_norm", "C_norm", "out_proj"),
    "ssmlens LinearAttention": ("in_proj", "norm", "out_proj"),
    "ssmlens MambaLinearAttention": ("in_proj", "conv1d", "x_proj", "out_proj"),
    "softmax attention": ("in_proj", "out_proj"),
    "transformers MambaMixer": ("in_proj", "x_proj", "out_proj"),
    "transformers Mamba2Mixer": ("in_proj", "norm", "out_proj"),
    "transformers FalconMambaMixer": ("in_proj", "x_proj", "out_proj"),
    "transformers ZambaMambaMixer": ("in_proj", "out_proj"),
    "transformers FalconH1Mixer": ("in_proj", "out_proj"),
    "transformers Qwen3NextGatedDeltaNet": ("in_proj_qkvz", "in_proj_ba", "norm", "out_proj"),
    "transformers Qwen3_5GatedDeltaNet": ("in_proj_qkv", "in_proj_z", "in_proj_a", "norm"),
    "transformers OlmoHybridGatedDeltaNet": ("q_proj", "a_proj", "g_proj", "o_norm", "o_proj"),
    "transformers KimiLinearDeltaAttention": ("k_proj", "forget_gate.f_a_proj", "o_norm"),
    "transformers BailingHybridDeltaAttention": ("v_proj", "forget_gate.f_proj", "g_proj"),
    "transformers Lfm2ShortConv": ("in_proj", "out_proj"),
    "transformers MiniMaxLightningAttention": ("qkv_proj", "norm", "output_gate", "out_proj"),
    "transformers RecurrentGemmaRecurrentBlock": ("linear_x", "linear_y", "linear_out"),
    "transformers RwkvSelfAttention": ("key", "value", "receptance", "output"),
}
CASES = [(family, layer) for family, layers in LAYERS.items() for layer in layers]


def lm(tiny_model, family):
    from ssmlens.adapters.softmax import SOFTMAX

    if family != "softmax attention":
        return tiny_model(family)
    torch.manual_seed(0)
    return SOFTMAX.tiny_model().eval()


def mixer_of(model, layer=0):
    with ssmlens.recording(model) as rec:
        model(IDS)
    return rec[layer].call.site.module


def logits_of(model):
    with torch.no_grad():
        return model(IDS).logits


def halve_some(_, args, output):
    """Not a multiple of the whole: a norm after it would undo that."""
    scale = torch.linspace(0.2, 1, output.shape[-1]).to(output.dtype)
    return output * scale


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_a_hook_changes_the_logits_and_the_recording_closes(tiny_model, family, layer):
    model = lm(tiny_model, family)
    clean, module = logits_of(model), mixer_of(model).get_submodule(layer)
    handle = module.register_forward_hook(halve_some)
    with ssmlens.recording(model) as rec, torch.no_grad():
        hooked = model(IDS).logits
    assert (hooked - clean).abs().max() > 1e-3
    assert rec[0].closure_error < 1e-5
    handle.remove()
    assert torch.equal(logits_of(model), clean)


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_a_hook_that_changes_nothing_changes_nothing(tiny_model, family, layer):
    model = lm(tiny_model, family)
    clean = logits_of(model)
    mixer_of(model).get_submodule(layer).register_forward_hook(lambda _, args, output: None)
    torch.testing.assert_close(logits_of(model), clean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("option", [{"d_intermediate": 20}, {"rms_norm": False}])
def test_every_layer_of_an_lm_is_called(option):
    """Each module with weights of its own: an output set to zero changes the logits."""
    from ssmlens.models.mamba_lm import MambaConfig, MambaLM

    torch.manual_seed(0)
    model = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=32, **option)).eval()
    clean = logits_of(model)
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)) and not name.endswith("mixer"):
            handle = module.register_forward_hook(lambda _, args, output: output * 0.5)
            assert not torch.equal(logits_of(model), clean), name
            handle.remove()
    assert torch.equal(logits_of(model), clean)


def test_a_hook_on_a_shipped_model_changes_its_logits():
    model = ssmlens.load_model("copy-mamba1-mimetic")
    ids = torch.arange(20)[None] % 26
    with torch.no_grad():
        clean = model(ids).logits
        out_proj = model.backbone.layers[3].mixer.out_proj
        out_proj.register_forward_pre_hook(lambda _, args: (args[0] * 0,))
        assert (model(ids).logits - clean).abs().max() > 0.1


def test_a_parametrised_layer_is_read_with_its_parametrisation(tiny_model):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = tiny_model("ssmlens Mamba")
    clean = logits_of(model)
    torch.nn.utils.parametrize.register_parametrization(
        mixer_of(model).out_proj, "weight", Double()
    )
    with ssmlens.recording(model) as rec:
        assert (model(IDS).logits - clean).abs().max() > 1e-3
    assert rec[0].closure_error < 1e-5


def test_a_layer_of_a_class_of_its_own_is_called(tiny_model):
    class Quantised(nn.Linear):
        def forward(self, input):
            return (super().forward(input) * 8).round() / 8

    model = tiny_model("ssmlens Mamba2")
    clean, mixer = logits_of(model), mixer_of(model)
    mixer.in_proj.__class__ = Quantised
    assert not is_plain(mixer.in_proj)
    with ssmlens.recording(model) as rec:
        assert (model(IDS).logits - clean).abs().max() > 1e-3
    assert rec[0].closure_error < 1e-5


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="ssmlens")
    log.propagate = True
    return caplog


def test_a_hook_that_the_library_never_calls_is_told_of(tiny_model, said):
    """The mixer of this test reads x_proj's weight, as fused kernels do."""

    class Fused(nn.Linear):
        def __call__(self, input):
            return nn.functional.linear(input, self.weight)

    model = tiny_model("transformers MambaMixer")
    clean, mixer = logits_of(model), mixer_of(model)
    mixer.x_proj.__class__ = Fused
    mixer.x_proj.register_forward_hook(halve_some)
    with ssmlens.recording(model) as rec:
        assert torch.equal(model(IDS).logits, clean)
    assert rec[0].closure_error < 1e-5
    own = [r for r in said.records if r.name == "ssmlens"]  # transformers has warnings of its own
    assert [r.getMessage() for r in own] == [
        "layer 0: MambaMixer reads the weight of x_proj and never calls it: hooks or an adapter there have no "
        "effect; hook the mixer, or merge the adapter"
    ]
    mixer.x_proj.__class__ = nn.Linear  # and once it is called again, it counts again
    with ssmlens.recording(model) as rec:
        assert not torch.equal(model(IDS).logits, clean)
    assert rec[0].closure_error < 1e-5


def test_of_many_layers_one_is_told_of(tiny_model, said):
    """This transformers reads the weight of conv1d in every layer."""
    model = tiny_model("transformers MambaMixer")
    for block in model.backbone.layers:
        block.mixer.conv1d.register_forward_hook(halve_some)
    clean = logits_of(tiny_model("transformers MambaMixer"))
    with ssmlens.recording(model) as rec:
        if not torch.equal(model(IDS).logits, clean):
            pytest.skip("this version calls conv1d")
    assert max(record.closure_error for record in rec) < 1e-5
    assert len(said.records) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("family", "layer", "acts"),
    [
        ("mamba_ssm Mamba", "in_proj", False),
        ("mamba_ssm Mamba", "out_proj", False),
        ("mamba_ssm Mamba2", "in_proj", True),
        ("mamba_ssm Mamba2", "norm", False),
        ("mamba_ssm Mamba3", "in_proj", True),
        ("mamba_ssm Mamba3", "B_norm", True),
    ],
)
def test_fused_kernels_close_whether_they_call_a_layer_or_not(said, family, layer, acts):
    from ssmlens.adapters.adapter import adapters

    (adapter,) = {a for p in adapters if (a := adapters[p]).family == family}
    torch.manual_seed(0)
    model, ids = adapter.tiny_model().eval(), IDS.cuda()
    with torch.no_grad():
        clean = model(ids).logits
        model.backbone.layers[0].mixer.get_submodule(layer).register_forward_hook(
            lambda _, args, out: out * torch.linspace(0.2, 1, out.shape[-1]).to(out)
        )
        with ssmlens.recording(model) as rec:
            hooked = model(ids).logits
    assert torch.equal(hooked, clean) is not acts
    assert bool(said.records) is not acts
    assert rec[0].closure_error < 1e-2  # TF32


def test_hooks_taken_off_before_the_operands_were_read_are_told_of(tiny_model, said):
    model = tiny_model("ssmlens Mamba")
    handle = mixer_of(model).in_proj.register_forward_hook(halve_some)
    with ssmlens.recording(model) as rec:
        model(IDS)
    handle.remove()
    assert rec[0].closure_error > 1e-3
    (message,) = [r.getMessage() for r in said.records]
    assert message.startswith("layer 0: the hooks on in_proj were removed since the recording")


def test_a_forward_that_fails_leaves_no_hook(tiny_model):
    model = tiny_model("ssmlens Mamba")
    mixer = mixer_of(model)

    def fail(_, args, output):
        raise ZeroDivisionError

    handle = mixer.x_proj.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError), ssmlens.recording(model):
        model(IDS)
    handle.remove()
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_a_capture_that_does_not_close_names_the_hooked_layers(tiny_model, tmp_path):
    model = tiny_model("ssmlens Mamba")
    mixer_of(model).in_proj.register_forward_hook(lambda _, args, out: out * torch.rand_like(out))
    with pytest.raises(
        ssmlens.errors.SsmlensError, match="there are hooks or an adapter on its in_proj"
    ):
        ssmlens.capture(model, ssmlens.recorder.prompts.from_tokens(IDS), out=tmp_path / "c.h5")
