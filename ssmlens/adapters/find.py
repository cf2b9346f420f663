"""Find the mixers of a model, whoever made it."""

import dataclasses
import re
from collections import Counter

from torch import nn

from ssmlens.adapters.adapter import Adapter, adapters
from ssmlens.errors import UnsupportedModelError

_LOOKS_LIKE_A_MIXER = re.compile(r"mamba|ssm|mixer", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class MixerSite:
    """A mixer in a model.

    Attributes:
        layer: Index of its block in the model.
        name: Its dotted name, as `model.get_submodule` takes it.
        module: The mixer.
        adapter: What reads it.
    """

    layer: int
    name: str
    module: nn.Module
    adapter: Adapter


def find_mixers(model: nn.Module) -> list[MixerSite]:
    """Every mixer that an adapter reads, in the order of the blocks.

    The layer is the block's number in the mixer's name ("backbone.layers.31.mixer"); where names give no number of
    their own to every mixer, mixers are counted.

    Raises:
        UnsupportedModelError: No adapter reads anything in the model; names its class and what is supported.
    """
    found = [
        (name, module, adapter)
        for name, module in model.named_modules()
        if (adapter := adapter_of(module)) is not None
    ]
    if not found:
        raise UnsupportedModelError(_unsupported(model))
    numbers = [_block_number(name) for name, _, _ in found]
    counted = None in numbers or max(Counter(numbers).values()) > 1
    return [
        MixerSite(i if counted or number is None else number, name, module, adapter)
        for i, ((name, module, adapter), number) in enumerate(zip(found, numbers, strict=True))
    ]


def count_blocks(model: nn.Module, sites: list[MixerSite]) -> int:
    """Number of blocks of the model, those without a mixer included."""
    parts = sites[0].name.split(".")
    digits = [i for i, part in enumerate(parts) if part.isdigit()]
    if not digits:
        return len(sites)
    blocks = model.get_submodule(".".join(parts[: digits[-1]]))
    return max(sum(1 for _ in blocks.children()), sites[-1].layer + 1)


def adapter_of(module: nn.Module) -> Adapter | None:
    """The adapter that reads this module, or None. A subclass is read as the class it extends."""
    for cls in type(module).__mro__:
        path = f"{cls.__module__}.{cls.__qualname__}"
        if path in adapters:
            return adapters[path]
    return None


def _block_number(name: str) -> int | None:
    numbers = [part for part in name.split(".") if part.isdigit()]
    return int(numbers[-1]) if numbers else None


def _unsupported(model: nn.Module) -> str:
    classes = [type(m) for m in model.modules()]
    near = [c for c in classes if _LOOKS_LIKE_A_MIXER.search(c.__name__)]
    seen = f" (it has {near[-1].__module__}.{near[-1].__qualname__})" if near else ""
    supported = ", ".join(dict.fromkeys(adapters[path].family for path in adapters))
    return f"no layer of {type(model).__name__}{seen} can be read; supported mixers: {supported}"
