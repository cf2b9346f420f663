"""The interface of an init, the registry of inits, and the mixers of a model that an init sets."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ssmlens.adapters.blocks import block_kinds
from ssmlens.adapters.find import MixerSite, find_mixers
from ssmlens.errors import UsageError
from ssmlens.options import option
from ssmlens.registry import Registry

# An attribute of a mixer that records its init: copies and pickles keep it.
_MARK = "ssmlens_init"
_NORM = re.compile(r"Norm(Gated)?$")


class Init(ABC):
    """An initialisation of a model: a frozen dataclass whose fields are its options."""

    @classmethod
    def arm(cls, name: str, values: Mapping[str, Any]) -> str:
        """Return the name of arms with this init, before their options (`options.Option.in_arm`).

        Args:
            name: The init's name in the registry.
            values: The options that are set, by field.
        """
        return name

    @abstractmethod
    def apply_(self, model: nn.Module, seed: int = 0) -> None:
        """Set the model's weights in place, or raise UsageError and leave it as it was.

        Args:
            model: Any model whose mixers an adapter reads: of ssmlens, mamba_ssm or transformers.
            seed: Seed of the draws.
        """


def layers_option() -> Any:
    """Return the field of an init for the blocks that it sets; None: all with a Mamba mixer."""
    return option(
        None,
        name="init_layers",
        in_arm=lambda _, layers: "layers " + ",".join(map(str, layers)),
    )


inits: Registry[type[Init]] = Registry("init", "ssmlens.inits")


def choose_mixers(model: nn.Module, layers: Iterable[int] | None = None) -> list[MixerSite]:
    """Return the mixers in these blocks of the model; None: all.

    Raises:
        UnsupportedModelError: No adapter reads any block of the model.
        UsageError: A layer is out of range or has no mixer, or a mixer is tensor-parallel.
    """
    sites = {site.layer: site for site in find_mixers(model)}
    indices = list(sites) if layers is None else list(layers)
    for layer in indices:
        if layer not in sites:
            raise UsageError(_why_not(model, layer, sites))
        if getattr(sites[layer].module, "process_group", None) is not None:
            raise UsageError(
                f"layer {layer} is tensor-parallel (process_group): each process holds a part of "
                "its weights; initialise the model before it is split"
            )
    return [sites[layer] for layer in indices]


def is_norm(module: nn.Module) -> bool:
    """Tell whether the module is a norm, by the name of its class, because libraries define their own."""
    return _NORM.search(type(module).__name__) is not None


def mark(site: MixerSite, text: str | None) -> None:
    """Record on the mixer how it was initialised; None: by its library."""
    setattr(site.module, _MARK, text)


def mark_of(site: MixerSite) -> str | None:
    """Return how the mixer was initialised, or None."""
    return getattr(site.module, _MARK, None)


def generator(seed: int) -> torch.Generator:
    """Return the generator of this seed, on the CPU, so that draws do not depend on the model's device."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed} is out of range: an init takes 0..2^32 - 1")
    return torch.Generator().manual_seed(seed)


def _why_not(model: nn.Module, layer: int, sites: Iterable[int]) -> str:
    kinds = block_kinds(model)
    if 0 <= layer < len(kinds):
        places = ", ".join(map(str, sites))
        return f"layer {layer} is {kinds[layer]}, not a Mamba mixer; those are in layers {places}"
    return f"layer {layer} is out of range: {type(model).__name__} has layers 0..{len(kinds) - 1}"
