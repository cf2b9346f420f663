"""Mamba-3 through its adapters: views, refusals, a recording, a capture; mamba_ssm's class is played by a stand-in."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference_scan import reference_attention_mask, reference_channel_maps

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.errors import UnsupportedModelError, UsageError
from ssmlens.models.mamba3 import Mamba3
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.store.integrity import verify


class FusedMamba3(Mamba3):
    """The twin under the name and with the signature of mamba_ssm's module, whose attributes it has."""

    def forward(self, u, seq_idx=None, cu_seqlens=None, inference_params=None):
        return super().forward(u)


FusedMamba3.__module__, FusedMamba3.__qualname__ = "mamba_ssm.modules.mamba3", "Mamba3"


def language_model(layers=2, **options):
    torch.manual_seed(0)
    ssm_cfg = {"layer": "Mamba3", "d_state": 6, "headdim": 4, **options}
    config = MambaConfig(d_model=16, n_layer=layers, vocab_size=32, ssm_cfg=ssm_cfg)
    model = MambaLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def fused(model):
    """The model with mamba_ssm's mixers, as far as anyone can tell."""
    for block in model.backbone.layers:
        block.mixer.__class__ = FusedMamba3
    return model


@pytest.mark.parametrize("ngroups", [1, 2])
def test_views_are_the_rows_of_in_proj_in_mamba_ssms_order(ngroups):
    mixer = Mamba3(16, d_state=6, headdim=4, ngroups=ngroups)
    views = adapters["mamba_ssm.modules.mamba3.Mamba3"].weights(mixer)
    rows = mixer.in_proj.weight
    first, states = 2 * mixer.d_inner, ngroups * 6
    for name, start in (("W_B", first), ("W_C", first + states)):
        view = getattr(views, name)
        assert view.shape == (ngroups, 6, 16)
        assert torch.equal(view.flatten(0, 1), rows[start : start + states])
    assert views.W_dt is not None
    assert torch.equal(views.W_dt, rows[first + 2 * states : first + 2 * states + mixer.nheads])
    assert views.named().keys() == {"W_B", "W_C", "W_dt", "dt_bias", "D"}


@pytest.mark.parametrize("make", [language_model, lambda: fused(language_model())])
def test_a_recording_of_mamba3_closes(make):
    model = make()
    with ssmlens.recording(model) as rec, torch.no_grad():
        model(torch.randint(0, 32, (3, 70)))
    assert rec.layers == [0, 1]
    assert all(rec[layer].closure_error < 1e-5 for layer in rec.layers)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cu_seqlens": torch.tensor([0, 3, 5])}, "packed sequences"),
        ({"seq_idx": torch.zeros(1, 5)}, "packed sequences"),
        ({"inference_params": SimpleNamespace(seqlen_offset=4)}, "a cached step"),
    ],
)
def test_packed_sequences_and_cached_steps_are_refused(given, said):
    mixer = fused(language_model()).backbone.layers[0].mixer
    with ssmlens.recording(torch.nn.ModuleList([mixer])), pytest.raises(UsageError, match=said):
        mixer(torch.randn(1, 5, 16), **given)


def test_the_prefill_of_a_cache_is_recorded():
    mixer = fused(language_model()).backbone.layers[0].mixer
    with ssmlens.recording(torch.nn.ModuleList([mixer])) as rec:
        mixer(torch.randn(1, 5, 16), inference_params=SimpleNamespace(seqlen_offset=0))
    assert rec[0].closure_error < 1e-5


def test_mimo_is_refused_by_name_before_it_runs():
    model = fused(language_model())
    mixer = model.backbone.layers[1].mixer
    mixer.is_mimo = True
    with ssmlens.recording(model), pytest.raises(UsageError, match=r"layer 1: Mamba3 with is_mimo"):
        model(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(UnsupportedModelError, match="is_mimo"):
        adapters["mamba_ssm.modules.mamba3.Mamba3"].weights(mixer)


def test_a_capture_of_mamba3_is_what_the_definition_says(tmp_path):
    model = language_model(ngroups=2)
    prompts = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [3, 5, 8]]
    capture = ssmlens.capture(model, prompts, out=tmp_path / "mamba3.h5", channels=[0, 5])
    layer = capture.layer(1)
    assert "A" not in layer
    assert verify(tmp_path / "mamba3.h5") == []
    for number, prompt in enumerate(prompts):
        with ssmlens.recording(model) as rec, torch.no_grad():
            model(torch.tensor([prompt]))
        operands = rec[1].operands
        maps = reference_channel_maps(operands)[0].numpy()
        wanted = {
            "attention_map": maps.mean(0),
            "attention_mask": reference_attention_mask(operands)[0].numpy(),
            "channel_map": maps[[0, 5]],
            "log_decay": operands.log_decay[0].numpy(),
            "write_now": operands.write_now[0].numpy(),
        }
        for name, array in wanted.items():
            stored = layer.read(name, number)
            assert np.linalg.norm(stored - array) < 1e-5 * np.linalg.norm(array), name
        # What the last token writes no later one reads.
        write, stored = operands.write[0, :-1].numpy(), layer.read("write", number)[:-1]
        assert np.linalg.norm(stored - write) < 1e-5 * np.linalg.norm(write)
        assert layer.read("map_error")[number] < 1e-5
        assert layer.read("mask_error")[number] < 1e-5
        again = layer.channel_map(3, number)
        assert np.linalg.norm(again - maps[3]) < 1e-5 * np.linalg.norm(maps[3])
