"""From a change of y to a change of the output: against the mixers' own gates, norms and projections of both sides."""

import dataclasses

import pytest
import torch
from oracles import relative
from torch import nn

import ssmlens
from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import find_mixers
from ssmlens.edits import Scale
from ssmlens.edits.finishing import finish_both, finish_change, is_linear
from ssmlens.models.linear_attention import LinearAttention
from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.mamba3 import Mamba3

LINEAR = {
    "Mamba-1": lambda: Mamba(12, d_state=4, bias=True),
    "Mamba-2 without norm": lambda: Mamba2(16, d_state=8, headdim=8, rmsnorm=False),
    "Mamba-2 with an MLP": lambda: Mamba2(16, d_state=8, headdim=8, d_ssm=16, rmsnorm=False),
    "Mamba-3": lambda: Mamba3(16, d_state=8, headdim=8),
    "linear attention": lambda: LinearAttention(16, nheads=2),
}
NORMED = {
    "Mamba-2": lambda: Mamba2(16, d_state=8, headdim=8),
    "Mamba-2, gate last": lambda: Mamba2(
        16, d_state=8, headdim=8, d_ssm=16, ngroups=2, norm_before_gate=True
    ),
    "Mamba-3": lambda: Mamba3(16, d_state=8, headdim=8, is_outproj_norm=True),
}


def layer(make, tokens=5):
    """A mixer's site, its operands, and two scans' outputs, in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(make().double())
    (site,) = find_mixers(model)
    hidden = torch.randn(2, tokens, model[0].out_proj.out_features, dtype=torch.double)
    operands = site.adapter.project(site.module, MixerInput(hidden))
    y, other = torch.randn(2, *operands.x.shape, dtype=torch.double)
    return site, operands, y, other


@torch.no_grad()
def apart(site, o, y, other, after=None):
    """What the mixer itself makes of one y less what it makes of another."""
    finish = site.adapter.finish
    return finish(site.module, y, after or o) - finish(site.module, other, o)


@torch.no_grad()
@pytest.mark.parametrize("name", LINEAR)
def test_a_change_passes_by_itself_where_there_is_no_norm(name):
    site, o, y, other = layer(LINEAR[name])
    assert is_linear(site, o, o)
    wanted = apart(site, o, y, other)
    assert relative(finish_change(site, y - other, o), wanted) < 1e-12
    assert relative(finish_both(site, y, o, other, o), wanted) < 1e-12
    assert not finish_change(site, torch.zeros_like(y), o).any()


@torch.no_grad()
@pytest.mark.parametrize("name", NORMED)
def test_through_a_norm_both_sides_pass(name):
    site, o, y, other = layer(NORMED[name])
    assert not is_linear(site, o, o)
    assert relative(finish_both(site, y, o, other, o), apart(site, o, y, other)) < 1e-12
    assert not finish_both(site, y, o, y.clone(), o).any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["Mamba-1", "Mamba-2"])
def test_another_gate_is_passed_by_its_own_side(name):
    site, o, y, other = layer((LINEAR | NORMED)[name])
    after = dataclasses.replace(o, gate=o.gate.flip(1))
    assert not is_linear(site, o, after)
    wanted = apart(site, o, y, other, after)
    assert relative(finish_both(site, y, after, other, o), wanted) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize(("name", "hooked"), [("Mamba-1", "out_proj"), ("Mamba-2", "norm")])
def test_layers_that_carry_hooks_are_called(name, hooked):
    """Squares are not linear: the difference of the outputs is not the output of the difference."""
    site, o, y, other = layer((LINEAR | NORMED)[name])
    plain = apart(site, o, y, other)
    site.module.get_submodule(hooked).register_forward_hook(lambda m, args, out: out.square())
    assert not is_linear(site, o, o)
    wanted = apart(site, o, y, other)
    assert relative(wanted, plain) > 0.1
    assert relative(finish_both(site, y, o, other, o), wanted) < 1e-12


@torch.no_grad()
def test_an_edit_goes_through_what_a_hook_makes_of_the_output():
    torch.manual_seed(0)
    model = nn.Sequential(Mamba(12, d_state=4))
    hidden = torch.randn(1, 6, 12)
    model[0].out_proj.register_forward_hook(lambda m, args, out: out.square())
    plain = model(hidden)
    with ssmlens.editing(model, Scale(layer=0, what="D", factor=0.5)):
        got = model(hidden)
    model[0].D.mul_(0.5)
    assert relative(got, model(hidden)) < 1e-5
    assert relative(got, plain) > 0.1
