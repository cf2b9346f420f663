"""flash-linear-attention's layers with every option: the real ones where it is installed, else what stands in."""

import importlib
import importlib.util
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oracles import mixed_by_definition, relative
from torch import nn

import ssmlens
from ssmlens.adapters.adapter import MixerInput, adapters
from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.find import adapter_of
from ssmlens.adapters.load import load_model
from ssmlens.errors import UnsupportedModelError, UsageError

STAND_INS = Path(__file__).parents[1] / "stand_ins"
IS_REAL = STAND_INS.as_posix() not in str(importlib.util.find_spec("fla").origin)
FAMILIES = {a.family: a for a in map(adapters.__getitem__, adapters) if "fla " in a.family}
WIDTH = 24
HEADS = {"head_dim": 5, "num_heads": 2, "expand_v": 1.4}
GLA = {"num_heads": 4, "expand_k": 0.5, "expand_v": 1.0}
OPTIONS = [
    ("gated_deltanet.GatedDeltaNet", HEADS),
    ("gated_deltanet.GatedDeltaNet", {**HEADS, "num_v_heads": 6, "allow_neg_eigval": True}),
    ("gated_deltanet.GatedDeltaNet", {**HEADS, "use_gate": False}),
    ("gated_deltanet.GatedDeltaNet", {**HEADS, "use_short_conv": False}),
    ("gated_deltanet.GatedDeltaNet", {**HEADS, "conv_bias": True, "conv_size": 3}),
    ("gated_deltanet.GatedDeltaNet", {**HEADS, "output_gate_activation": "sigmoid"}),
    ("delta_net.DeltaNet", {"num_heads": 3}),
    ("delta_net.DeltaNet", {"num_heads": 3, "expand_k": 0.5, "use_gate": True}),
    ("delta_net.DeltaNet", {"num_heads": 3, "use_beta": False, "allow_neg_eigval": True}),
    ("delta_net.DeltaNet", {"num_heads": 3, "use_short_conv": False, "conv_bias": True}),
    ("delta_net.DeltaNet", {"num_heads": 3, "qk_activation": "relu", "qk_norm": "sum"}),
    ("delta_net.DeltaNet", {"num_heads": 3, "qk_activation": "elu", "qk_norm": "sum"}),
    (
        "delta_net.DeltaNet",
        {"num_heads": 3, "qk_activation": "identity", "use_short_conv": False},
    ),
    ("kda.KimiDeltaAttention", HEADS),
    ("kda.KimiDeltaAttention", {**HEADS, "num_v_heads": 4, "allow_neg_eigval": True}),
    ("kda.KimiDeltaAttention", {**HEADS, "safe_gate": True, "lower_bound": -5.0}),
    ("kda.KimiDeltaAttention", {**HEADS, "use_short_conv": False}),
    ("kda.KimiDeltaAttention", {**HEADS, "conv_bias": True}),
    ("gla.GatedLinearAttention", GLA),
    ("gla.GatedLinearAttention", {**GLA, "num_kv_heads": 2, "use_short_conv": True}),
    ("gla.GatedLinearAttention", {**GLA, "conv_bias": True, "use_short_conv": True}),
    ("gla.GatedLinearAttention", {**GLA, "clamp_min": -0.05, "gate_logit_normalizer": 2}),
    ("gla.GatedLinearAttention", {**GLA, "feature_map": "sigmoid", "elementwise_affine": False}),
    ("gla.GatedLinearAttention", {**GLA, "use_output_gate": False}),
    ("gla.GatedLinearAttention", {**GLA, "fuse_norm": False, "gate_fn": "sigmoid"}),
]


def make(path, options, seed=0):
    module, _, name = path.rpartition(".")
    torch.manual_seed(seed)
    layer = getattr(importlib.import_module(f"fla.layers.{module}"), name)
    mixer = layer(hidden_size=WIDTH, mode="fused_recurrent", layer_idx=0, **options).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def padded(batch, tokens):
    """Padding before the first row's tokens and after the second's."""
    mask = torch.ones(batch, tokens, dtype=torch.long)
    mask[0, :4] = 0
    mask[1, -3:] = 0
    return mask


@pytest.mark.filterwarnings("ignore:ShortConvolution is crucial")
@pytest.mark.parametrize(("path", "options"), OPTIONS, ids=str)
@torch.no_grad()
def test_every_option_closes_with_padding_on_either_side(path, options):
    mixer, hidden = make(path, options), torch.randn(3, 9, WIDTH)
    adapter = adapter_of(mixer)
    for mask in (None, padded(3, 9)):
        output = mixer(hidden, attention_mask=mask)[0]
        operands = adapter.project(mixer, MixerInput(hidden, mask))
        y = mixed_by_definition(operands).float()
        assert relative(adapter.finish(mixer, y, operands), output) < 1e-5
        assert relative(operands(operands.x), mixed_by_definition(operands)) < 1e-5
        if mask is not None:
            assert not output[mask == 0].any()
            x = operands.x
            assert not x[mask == 0].any()


@torch.no_grad()
def test_a_padded_row_is_that_row_alone():
    mixer, hidden, mask = make(*OPTIONS[4]), torch.randn(3, 9, WIDTH), padded(3, 9)
    adapter = adapter_of(mixer)
    both = adapter.project(mixer, MixerInput(hidden, mask))
    for row, span in enumerate([(4, 9), (0, 6), (0, 9)]):
        one = adapter.project(mixer, MixerInput(hidden[row : row + 1, slice(*span)]))
        cut = both.rows([row], *span)
        for name in (*one.axes, "x"):
            torch.testing.assert_close(getattr(cut, name), getattr(one, name), msg=name)


@pytest.mark.parametrize("row", [[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 1]])
def test_padding_between_tokens_is_refused(row):
    mixer = make(*OPTIONS[0])
    given = {"attention_mask": torch.tensor([[1, 1, 1, 1], row])}
    why = adapter_of(mixer).refusal(mixer, (torch.zeros(2, 4, WIDTH),), given)
    assert "padding between a prompt's tokens is not recorded" in why


@pytest.mark.parametrize("row", [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
def test_padding_around_the_tokens_is_not(row):
    mixer = make(*OPTIONS[0])
    given = {"attention_mask": torch.tensor([[1, 1, 1, 1], row])}
    assert adapter_of(mixer).refusal(mixer, (torch.zeros(2, 4, WIDTH),), given) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recording_says_nothing_of_convolutions_that_are_not_called(family, caplog):
    torch.manual_seed(0)
    model = FAMILIES[family].tiny_model().eval()
    with caplog.at_level(logging.WARNING), torch.no_grad(), ssmlens.recording(model) as rec:
        model(torch.arange(7)[None], use_cache=False)
    assert max(record.closure_error for record in rec) < 1e-5
    assert caplog.text == ""


@pytest.mark.parametrize("path", ["gated_deltanet.GatedDeltaNet", "delta_net.DeltaNet"])
@torch.no_grad()
def test_what_hooks_on_inner_layers_change_is_in_the_operands(path):
    mixer, hidden = (
        make(path, HEADS if "gated" in path else {"num_heads": 3}),
        torch.randn(2, 5, WIDTH),
    )
    model = nn.Sequential(mixer)
    plain = mixer(hidden)[0]
    for name in ("k_proj", "o_norm"):
        hook = mixer.get_submodule(name).register_forward_hook(lambda *given: given[-1] * 1.5 + 0.1)
        with ssmlens.recording(model) as rec:
            output = model(hidden)[0]
        assert relative(output, plain) > 1e-2
        assert rec[0].closure_error < 1e-5
        hook.remove()


def hybrid(layers=(1,)):
    """A model of three blocks, some of which are softmax attention."""
    models = importlib.import_module("fla.models")
    adapter = FAMILIES["fla GatedDeltaNet"]
    config = models.GatedDeltaNetConfig(
        num_hidden_layers=3,
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=16,
        attn_mode="fused_recurrent",
        attn={"layers": list(layers), "num_heads": 2},
        **dict.fromkeys(("fuse_norm", "fuse_swiglu", "fuse_cross_entropy"), False),
        **adapter.tiny,
    )
    return models.GatedDeltaNetForCausalLM(config).eval()


@pytest.mark.skipif(IS_REAL, reason="needs flash_attn")
def test_a_hybrids_attention_and_mlps_are_listed_as_they_are():
    model = hybrid()
    blocks = find_blocks(model)
    assert [block.kind for block in blocks] == ["delta rule", "attention", "delta rule"]
    assert [type(block.mlps[0]).__name__ for block in blocks] == ["GatedMLP"] * 3
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(torch.arange(5)[None], use_cache=False)
    assert [record.layer for record in rec] == [0, 2]
    why = r"softmax attention, whose weights this model does not return$"
    with pytest.raises(UsageError, match=why), ssmlens.recording(model, layers=[1]):
        pass


def test_rwkv7_is_refused_by_name_with_the_reason():
    rwkv7 = importlib.import_module("fla.layers.rwkv7")
    layer = rwkv7.RWKV7Attention.__new__(rwkv7.RWKV7Attention)
    nn.Module.__init__(layer)
    reason = "RWKV7Attention is refused: RWKV-7 erases with another key than it writes with"
    with pytest.raises(UnsupportedModelError, match=reason):
        ssmlens.recording(nn.Sequential(layer)).__enter__()
    model = nn.Sequential(make(*OPTIONS[0]), layer)
    assert [block.kind for block in find_blocks(model)] == ["delta rule", "other"]
    with pytest.raises(UsageError, match=reason), ssmlens.recording(model, layers=[1]):
        pass


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_flash_linear_attention_says_what_to_install(
    family, tmp_path, monkeypatch
):
    for name in [name for name in sys.modules if name.partition(".")[0] == "fla"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fla", None)
    kind = FAMILIES[family].model_type
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    why = f"is a {kind}, which needs fla.*: pip install flash-linear-attention"
    with pytest.raises(UnsupportedModelError, match=why):
        load_model(tmp_path)


@pytest.mark.skipif(not IS_REAL, reason="what stands in cannot be saved")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_loaded_and_captured(family, tmp_path):
    torch.manual_seed(0)
    model, ids = FAMILIES[family].tiny_model().eval(), torch.arange(9)[None]
    model.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model")
    with torch.no_grad():
        got, wanted = (m(ids, use_cache=False).logits for m in (again, model))
    assert torch.equal(got, wanted)
    capture = ssmlens.capture(again, ids, out=tmp_path / "run.h5")
    assert list(capture.layers) == [0, 1, 2]


CODE = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
import importlib, torch
outputs = []
for path, options, state, hidden, mask in pickle.load(open(sys.argv[2], "rb")):
    module, _, name = path.rpartition(".")
    layer = getattr(importlib.import_module("fla.layers." + module), name)(hidden_size=24, **options)
    layer.load_state_dict(state)
    with torch.no_grad():
        outputs.append([layer(hidden)[0], layer(hidden, attention_mask=mask)[0]])
pickle.dump(outputs, open(sys.argv[3], "wb"))
"""


@pytest.mark.skipif(not IS_REAL, reason="flash-linear-attention is not installed")
@pytest.mark.filterwarnings("ignore:ShortConvolution is crucial")
@torch.no_grad()
def test_what_stands_in_is_what_flash_linear_attention_computes(tmp_path):
    cases, wanted = [], []
    for path, options in OPTIONS:
        mixer, hidden, mask = make(path, options), torch.randn(3, 9, WIDTH), padded(3, 9)
        cases.append((path, options, mixer.state_dict(), hidden, mask))
        wanted.append([mixer(hidden)[0], mixer(hidden, attention_mask=mask)[0]])
    (tmp_path / "cases").write_bytes(pickle.dumps(cases))
    files = (STAND_INS, tmp_path / "cases", tmp_path / "outputs")
    subprocess.run([sys.executable, "-c", CODE, *map(str, files)], check=True, timeout=300)
    outputs = pickle.loads((tmp_path / "outputs").read_bytes())
    for case, got, known in zip(OPTIONS, outputs, wanted, strict=True):
        for one, other in zip(got, known, strict=True):
            assert relative(one, other) < 1e-5, case
