"""Layers whose map is not what the adapter reads, behind skips, biases, norms and bfloat16: no verdict is yes.

Each mixer computes with another Δ than its weights say, behind the adapter's back. The largest share of the map that
is wrong stands beside the verdict; what no output can show is here too, and says so.
"""

import dataclasses

import pytest
import torch

import ssmlens
from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import find_mixers
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.scan.hidden_attention import attention_map
from ssmlens.scan.selective_scan import selective_scan

IDS = torch.arange(1, 23).view(2, 11)


def mamba(layer):
    torch.manual_seed(0)
    cfg = {"layer": layer, "d_state": 4} | ({"headdim": 8} if layer == "Mamba2" else {})
    cfg |= {"bias": True}
    model = MambaLM(MambaConfig(d_model=16, n_layer=1, vocab_size=32, ssm_cfg=cfg)).eval()
    return model, find_mixers(model)[0]


def skip(size):
    return lambda mixer: mixer.D.fill_(size)


def bias(size):
    return lambda mixer: mixer.out_proj.bias.fill_(size)


def small_out(mixer):
    mixer.out_proj.weight.mul_(1e-6)
    mixer.out_proj.bias.fill_(1.0)


def as_they_are(mixer):
    pass


SETTINGS = {
    "as they are": as_they_are,
    "D 0": skip(0),
    "D 100": skip(100),
    "D 1e4": skip(1e4),
    "D 1e7": skip(1e7),
    "D -1e4": skip(-1e4),
    "bias 1e4": bias(1e4),
    "bias 1e7": bias(1e7),
    "weight of out_proj 1e-6, bias 1": small_out,
}


VISIBLE = ("as they are", "D 0")
"""Where the map contributes enough to be checked."""


def other_delta(site, operands):
    return dataclasses.replace(operands, delta=1.5 * operands.delta)


def other_past(site, operands):
    return dataclasses.replace(operands, B=operands.B.roll(1, dims=1))


def run_otherwise(site, change):
    """The mixer's forward, of changed operands."""
    adapter, mixer = site.adapter, site.module
    own = mixer.forward

    def forward(hidden, *args, **options):
        operands = change(site, adapter.project(mixer, MixerInput(hidden.float())))
        return adapter.finish(mixer, selective_scan(operands), operands).to(own(hidden).dtype)

    mixer.forward = forward


@torch.no_grad()
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("layer", ["Mamba1", "Mamba2"])
@pytest.mark.parametrize("change", [None, other_delta, other_past])
def test_no_wrong_map_has_the_verdict_yes_and_no_right_one_the_verdict_no(setting, layer, change):
    model, site = mamba(layer)
    SETTINGS[setting](site.module)
    if change is not None:
        run_otherwise(site, change)
    with ssmlens.capture(model, IDS, None, keep_going=True) as captured:
        verdict = captured.layer(0).verdict
        ranking = ssmlens.rank_layers(captured)
    if change is None:
        assert verdict.answer == "yes" if setting in VISIBLE else verdict.answer != "no", verdict
    else:
        assert not verdict.believed, verdict
        assert ranking[0].reason.startswith("does not close: ")


@torch.no_grad()
@pytest.mark.parametrize("setting", ["as they are", "D 100", "D 1e4", "bias 1e4"])
@pytest.mark.parametrize("layer", ["Mamba1", "Mamba2"])
@pytest.mark.parametrize("change", [None, other_past])
def test_in_bfloat16(setting, layer, change):
    model, site = mamba(layer)
    SETTINGS[setting](site.module)
    if change is not None:
        run_otherwise(site, change)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        ssmlens.capture(model, IDS, None, keep_going=True) as captured,
    ):
        verdict = captured.layer(0).verdict
    assert verdict.answer != "no" if change is None else not verdict.believed, verdict


@torch.no_grad()
def test_a_skip_that_is_parallel_to_the_map_hides_nothing():
    """A gated norm sees y alone: two outputs are alike where y and D x are parallel, and the map's share is not 0."""
    model, site = mamba("Mamba2")
    site.module.A_log.fill_(20)  # nothing is left of the past: M is diagonal
    with ssmlens.recording(model) as rec:
        model(IDS)
    operands, (mixer, adapter) = rec[0].operands, (site.module, site.adapter)
    y = selective_scan(operands)
    skipped = operands.D * operands.x
    apart = adapter.finish(mixer, y, operands) - adapter.finish(mixer, skipped, operands)
    assert rec[0].closure.map_rounding.isfinite().all()
    assert apart.norm() < 100 * (y - skipped).norm()
    run_otherwise(site, other_past)
    with ssmlens.capture(model, IDS, None, keep_going=True) as captured:
        assert not captured.layer(0).verdict.believed


@torch.no_grad()
@pytest.mark.parametrize("layer", ["Mamba1", "Mamba2"])
def test_heads_that_do_not_reach_the_output_do_not_get_the_verdict_yes(layer):
    """Half of the columns of out_proj are zero, and these heads compute otherwise: no output shows it."""
    model, site = mamba(layer)
    heads = len(site.module.D)
    site.module.out_proj.weight[:, :16] = 0

    def half_otherwise(site, operands):
        scale = torch.ones(heads)
        scale[: heads // 2] = 1.5
        return dataclasses.replace(operands, delta=operands.delta * scale)

    run_otherwise(site, half_otherwise)
    with ssmlens.recording(model) as rec:
        model(IDS)
    wrong = half_otherwise(site, rec[0].operands)
    assert rec[0].closure_error < 1e-5 or layer == "Mamba2"  # whose norm sees all heads
    apart = attention_map(wrong) - rec[0].attention_map
    assert apart.norm() > 0.1 * rec[0].attention_map.norm()
    with ssmlens.capture(model, IDS, None, keep_going=True) as captured:
        verdict = captured.layer(0).verdict
    assert verdict.answer == ("not resolved" if layer == "Mamba1" else "no"), verdict
    if layer == "Mamba1":
        assert f"{heads // 2} of {heads} heads do not reach the output" in verdict.reason


@torch.no_grad()
@pytest.mark.parametrize(("size", "answer"), [(1.0, "no"), (100.0, "yes")])
def test_a_gated_norm_takes_out_the_scale_of_a_row(size, answer):
    """A limit, kept here as one: without a skip, and with y far above the norm's ε, a map that is thrice as large gives
    the same output."""
    model, site = mamba("Mamba2")
    site.module.D.fill_(0)
    site.module.in_proj.weight.mul_(size)
    run_otherwise(site, lambda _, operands: dataclasses.replace(operands, C=3 * operands.C))
    with ssmlens.capture(model, IDS, None, keep_going=True) as captured:
        verdict = captured.layer(0).verdict
    assert verdict.answer == answer, verdict
