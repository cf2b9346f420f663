"""A small model that looks ahead: the architecture of typeseg (analyses/typeseg), random weights, and a capture."""

import torch

import ssmlens

IDS = [list(range(3, 29)), [7, 8, 9, 10, 11], list(range(30, 13, -1)), [5]]


def random_typeseg(adapter):
    """Its tiny model, with slow decays, so that tokens see far."""
    torch.manual_seed(0)
    model = adapter.tiny_model().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) - 1.5 * name.endswith("A_log"))
    return model


def two_way_capture(adapter, path):
    """The file of its capture: prompts of 26, 5, 17 and 1 tokens."""
    ssmlens.capture(random_typeseg(adapter), IDS, path, channels=[0, 7]).close()
    return path
