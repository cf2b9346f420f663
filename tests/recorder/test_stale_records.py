"""What changed since the forward is noticed when operands are read: weights, settings, what the model wrote over."""

import logging

import pytest
import torch
from torch import nn

import ssmlens
from ssmlens.errors import SsmlensError
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.recorder.fingerprint import Fingerprint

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7, 1, 8, 2, 8, 1, 8, 2]])


def mamba(layer="Mamba1", skip=None):
    torch.manual_seed(0)
    cfg = {"layer": layer, "d_state": 4} | ({"headdim": 8} if layer == "Mamba2" else {})
    model = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=32, ssm_cfg=cfg)).eval()
    if skip is not None:
        with torch.no_grad():
            model.backbone.layers[0].mixer.D.fill_(skip)
    return model


def recorded(model, ids=IDS, **options):
    with torch.no_grad(), ssmlens.recording(model, **options) as rec:
        model(ids)
    return rec


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="ssmlens")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "ssmlens"]


@pytest.mark.parametrize(
    "name", ["in_proj.weight", "A_log", "D", "dt_proj.bias", "out_proj.weight"]
)
def test_a_write_through_data_is_noticed(name, said):
    """As averages of weights are made: no version counter moves."""
    model = mamba()
    rec = recorded(model)
    kept = rec[1].operands
    parameter = model.backbone.layers[0].mixer.get_parameter(name)
    parameter.data.add_(1)
    with pytest.raises(SsmlensError, match="layer 0: the weights have changed since the recording"):
        rec[0].operands  # noqa: B018
    assert rec[1].operands is kept
    parameter.data.sub_(1)
    assert said() == []


def test_a_write_that_spares_the_values_kept_shows_in_the_closure(said):
    model = mamba()
    rec = recorded(model)
    weight = model.backbone.layers[0].mixer.in_proj.weight
    weight.data[1::2, 1::2] *= 2  # rows and columns 0, 8, … are kept of 64 × 16
    assert rec[0].closure_error > 1e-3
    rec[0].attention_map  # noqa: B018
    rec[0].operands  # noqa: B018
    (line,) = said()
    assert line.startswith("layer 0: its output does not follow from these operands (closure error")
    assert "\n" not in line


def test_a_setting_that_changed_is_noticed(tiny_model, said):
    model = tiny_model("transformers Mamba2Mixer")
    rec = recorded(model)
    model.backbone.layers[1].mixer.time_step_limit = (0.0, 1e-3)
    for record in rec:
        record.operands  # noqa: B018
    (line,) = said()
    assert line.startswith("layer 1: its output does not follow")


def test_a_changed_setting_is_noticed_behind_a_large_skip(tiny_model, said):
    """Where the closure error alone would pass."""
    model = tiny_model("transformers Mamba2Mixer")
    mixer = model.backbone.layers[0].mixer
    with torch.no_grad():
        mixer.D.fill_(1e4)
    rec = recorded(model)
    mixer.time_step_limit = (0.0, 1e-3)
    record = rec[0]
    assert record.closure_error < 1e-4
    assert "map_closure" in record.doubt
    record.operands  # noqa: B018
    assert len(said()) == 1


class InPlace(nn.Module):
    """A block that writes over what its mixer was given, and over what it put out."""

    def __init__(self, mixer, how):
        super().__init__()
        self.mixer, self.how = mixer, how

    def forward(self, x):
        h = x.clone()
        out = self.mixer(h)
        if self.how == "input times 3":
            h *= 3
            return out + x
        if self.how == "stream":
            h += out
            return h
        out += x
        return out


@torch.no_grad()
@pytest.mark.parametrize("how", ["input times 3", "stream", "output"])
@pytest.mark.parametrize("inference", [False, True])
def test_what_a_model_writes_over_is_recorded_as_it_was(how, inference, said):
    mixers = [block.mixer for block in mamba().backbone.layers]
    plain = nn.Sequential(*[InPlace(mixer, how) for mixer in mixers])
    x = torch.randn(2, 7, 16)
    seen = []
    for mixer in mixers:
        mixer.register_forward_hook(
            lambda _, args, out: seen.append((args[0].clone(), out.clone())), prepend=True
        )
    with torch.inference_mode(inference), ssmlens.recording(plain) as rec:
        plain(x)
    for record, (given, out) in zip(rec, seen, strict=True):
        assert torch.equal(record.call.given.hidden, given)
        assert torch.equal(record.call.output, out)
        record.operands  # noqa: B018
        assert record.closure_error < 1e-5
    assert said() == []


def test_it_is_differentiable_where_the_model_writes_over_its_input():
    model = nn.Sequential(InPlace(mamba().backbone.layers[0].mixer, "stream"))
    x = torch.randn(2, 7, 16, requires_grad=True)
    with ssmlens.recording(model, gradients=True) as rec:
        model(x)
    ssmlens.channel_maps(rec[0].operands, [0]).sum().backward()
    assert float(x.grad.abs().sum()) > 0


def test_what_an_edit_or_a_hook_changes_is_said_once_and_can_be_read(said):
    model = mamba()
    model.backbone.layers[1].mixer.register_forward_hook(lambda _, __, out: 1.5 * out)
    rec = recorded(model)
    for _ in range(2):
        rec[0].operands, rec[1].operands
    (line,) = said()
    assert line.startswith("layer 1: its output does not follow")
    assert "an edit or a hook changed its output" in line


def test_numbers_that_are_not_finite_are_said(said):
    model = mamba()
    with torch.no_grad():
        model.backbone.layers[1].mixer.D.fill_(torch.nan)
    rec = recorded(model)
    rec[0].operands  # noqa: B018
    assert said() == []
    rec[1].operands  # noqa: B018
    assert "closure error nan" in said()[0]


def test_a_fingerprint_of_odd_weights():
    module = nn.ParameterList(
        [
            torch.empty(0),
            torch.tensor(3.0),
            torch.full((3, 5), torch.nan),
            torch.randn(7, 9).T,
            torch.randn(1, 33, 4),
        ]
    )
    found = Fingerprint(module)
    assert found.matches(module)
    module[3].data.mul_(2)
    assert not found.matches(module)
    module[3].data.div_(2)
    assert found.matches(module)
    module[1].data.add_(1)
    assert not found.matches(module)
