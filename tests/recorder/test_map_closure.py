"""map_closure: a wrong map shows behind a skip that dominates the output; against its definition."""

import dataclasses

import numpy as np
import pytest
import torch

from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.recorder.closure import closure, unseen_heads
from ssmlens.recorder.recording import recording
from ssmlens.scan.selective_scan import selective_scan
from ssmlens.store.verdict import judge


def mamba(layer, skip=1.0):
    torch.manual_seed(0)
    cfg = {"layer": layer, "d_state": 4} | ({"headdim": 8} if layer == "Mamba2" else {})
    model = MambaLM(MambaConfig(d_model=16, n_layer=1, vocab_size=32, ssm_cfg=cfg))
    with torch.no_grad():
        model.backbone.layers[0].mixer.D.fill_(skip)
    return model


def recorded(model):
    with recording(model) as rec, torch.no_grad():
        model(torch.arange(1, 15).view(2, 7))
    return rec[0].call, rec[0].operands


@torch.no_grad()
@pytest.mark.parametrize("layer", ["Mamba1", "Mamba2"])
def test_it_is_the_difference_beside_what_the_map_contributes(layer):
    call, operands = recorded(mamba(layer))
    adapter, mixer = call.site.adapter, call.site.module
    wrong = call.output + 1e-3 * torch.randn(call.output.shape)
    length = torch.tensor([7, 3])
    found = closure(adapter, mixer, operands, wrong, length)
    y = selective_scan(operands).double()
    x, z = operands.x.double(), operands.gate.double()[..., -32:]
    written = (y - operands.D.double() * x).flatten(2)
    for prompt, tokens in enumerate((7, 3)):
        total = 0.0
        for t in range(tokens):
            scale = torch.nn.functional.silu(z[prompt, t])
            if layer == "Mamba2":  # out_proj of y · SiLU(z) · w / rms, the rms that of y with D x
                whole = y[prompt, t].flatten() * scale
                norm = mixer.norm
                scale = scale * norm.weight.double() / (whole.square().mean() + 1e-5).sqrt()
            total += (mixer.out_proj.weight.double() @ (written[prompt, t] * scale)).square().sum()
        difference = (wrong - call.output)[prompt, :tokens].double().norm()
        expected = float(difference / total.sqrt())
        assert float(found.map_error[prompt]) == pytest.approx(expected, rel=1e-3)
        size = wrong[prompt, :tokens].double().norm()
        rounding = float(2.0**-23 * size / total.sqrt())
        assert float(found.map_rounding[prompt]) == pytest.approx(rounding, rel=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("layer", ["Mamba1", "Mamba2"])
def test_heads_with_zero_columns_alone_do_not_reach_the_output(layer):
    call, operands = recorded(mamba(layer))
    adapter, mixer = call.site.adapter, call.site.module
    assert unseen_heads(adapter, mixer, operands) == 0
    size, weight = operands.x.shape[3], mixer.out_proj.weight
    weight[:, size : 3 * size] = 0
    weight[0, :size] = 0
    weight[:, -1] = 0
    assert unseen_heads(adapter, mixer, operands) == (3 if size == 1 else 2)
    assert unseen_heads(adapter, mixer, dataclasses.replace(operands, x=None)) == 0
    packed = torch.zeros(7, 3, dtype=torch.uint8)  # quantised: nothing is known of its columns
    mixer.out_proj.weight = torch.nn.Parameter(packed, requires_grad=False)
    assert unseen_heads(adapter, mixer, operands) == 0
    mixer.out_proj = torch.nn.Identity()
    assert unseen_heads(adapter, mixer, operands) == 0


@torch.no_grad()
@pytest.mark.parametrize("layer", ["Mamba1", "Mamba2"])
def test_behind_a_gate_that_is_not_read_the_maps_closure_is_not_known(layer):
    call, operands = recorded(mamba(layer))
    assert operands.gate is not None
    operands = dataclasses.replace(operands, surroundings=None)
    args = call.site.adapter, call.site.module, operands, call.output
    found = closure(*args, torch.tensor([7, 3]))
    assert found.error.max() < 1e-5
    assert found.map_error.shape == found.map_rounding.shape == (2,)
    assert found.map_error.isnan().all()
    assert found.map_rounding.isnan().all()


class Layer(dict):
    index, state, attributes = 0, "yes", {"operator": "decay scan"}

    def read(self, name, prompt=None):
        return self[name]


@torch.no_grad()
@pytest.mark.parametrize(
    ("skip", "answer"), [(0.0, "no"), (1.0, "no"), (100.0, "no"), (1e7, "not resolved")]
)
def test_a_wrong_map_is_seen_behind_a_large_skip(skip, answer):
    """Δ one per cent off: the share of it that reaches the output falls as D grows."""
    call, operands = recorded(mamba("Mamba1", skip))
    adapter, mixer = call.site.adapter, call.site.module
    wrong = dataclasses.replace(operands, delta=operands.delta * 1.5)
    found = closure(adapter, mixer, wrong, call.output)
    arrays = {"closure_error": found.error, "map_closure": found.map_error}
    layer = Layer(
        {n: a.numpy() for n, a in arrays.items()}, map_rounding=found.map_rounding.numpy()
    )
    verdict = judge(layer)
    assert verdict.answer == answer, (verdict, found)
    if skip == 100.0:
        assert verdict.errors["closure_error"] < 1e-3
        assert verdict.errors["map_closure"] > 0.05


def test_a_file_of_before_is_judged_without():
    assert judge(Layer(closure_error=np.zeros(2))).answer == "yes"
    hidden = {"map_closure": np.array([5e-5]), "map_rounding": np.array([2e-4])}
    verdict = judge(Layer(closure_error=np.zeros(1), **hidden))
    assert verdict.answer == "not resolved"
    assert "rounding hides it" in verdict.reason
    unknown = {"map_closure": np.array([np.nan]), "map_rounding": np.array([np.nan])}
    assert judge(Layer(closure_error=np.zeros(1), **unknown)).answer == "yes"
