"""Models for these tests, of every family, with values away from those of a default draw."""

import inspect

import torch
from devices import DEVICE, runnable
from tiny_models import tiny_model_of

from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.softmax import SOFTMAX

FAMILIES = {adapters[path].family: (adapters[path], path) for path in adapters}
FAMILIES[SOFTMAX.family] = (SOFTMAX, "ssmlens.models.attention.MHA")
HERE = runnable(FAMILIES)


def spread(model, seed=0):
    """Every parameter moved; the embedding kept small, so that the layers matter beside it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            small = "embed" in name or "lm_head" in name
            parameter.add_((0.02 if small else 0.3) * torch.randn_like(parameter))
    return model.to(DEVICE).eval()


def tiny(family):
    """A family's tiny model; skips where this transformers has none."""
    adapter, _ = FAMILIES[family]
    torch.manual_seed(0)
    return spread(tiny_model_of(adapter))


def ids_of(tokens, seed=0):
    torch.manual_seed(100 * seed + tokens)
    return torch.randint(2, 32, (1, tokens), device=DEVICE)


def logits_of(model, ids, **options):
    """The model's own logits [token vocabulary], without any hook."""
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    with torch.no_grad():
        return model(ids, **options).logits[0].double()
