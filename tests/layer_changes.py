"""What an initialisation or a transplant changed in a model."""

import torch

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import find_mixers


def state_of(model):
    """A copy of every parameter, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before, model):
    """The names of the parameters that differ from `before`; NaN equals NaN."""
    return {
        name
        for name, p in model.named_parameters()
        if not torch.equal(p.nan_to_num(99), before[name].nan_to_num(99))
    }


@torch.no_grad()
def operands_of(model, layer=0):
    """The operands of a mixer on two fixed random prompts, for mixers that read 24 channels."""
    site = find_mixers(model)[layer]
    torch.manual_seed(5)
    return site.adapter.project(site.module, MixerInput(torch.randn(2, 9, 24)))


def views_of(model, layer=0):
    """The weight views of a mixer."""
    site = find_mixers(model)[layer]
    return site.adapter.weights(site.module)


def assert_equal_operands(given, taken, names):
    """Assert that two mixers compute the same operands, entry for entry."""
    for name in names:
        assert torch.equal(getattr(given, name), getattr(taken, name)), name


def assert_taken_projections(student, teacher, layer, drawn, unchanged):
    """Assert that a layer has the W_B and W_C of the teacher's first layer, and its own other operands."""
    views, wanted = views_of(student, layer), views_of(teacher)
    assert torch.equal(views.W_B, wanted.W_B)
    assert torch.equal(views.W_C, wanted.W_C)
    assert_equal_operands(drawn, operands_of(student, layer), unchanged)
