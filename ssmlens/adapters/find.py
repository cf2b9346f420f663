"""Find the mixers of a model, whoever made it."""

import dataclasses
import re
from collections.abc import Sequence

from torch import nn

from ssmlens.adapters.adapter import Adapter, adapters
from ssmlens.adapters.refused import why_refused
from ssmlens.errors import UnsupportedModelError

_LOOKS_LIKE_A_MIXER = re.compile(r"mamba|ssm|mixer", re.IGNORECASE)
_MIXES_TOKENS = re.compile(
    r"(attention|attn|mha|mixer|deltanet|mamba2?|ssm|retention|xlstmlayer)\d*$", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class MixerSite:
    """A mixer in a model.

    Attributes:
        layer: Index of its block in the model.
        name: Its dotted name, as `model.get_submodule` takes it.
        module: The mixer.
        adapter: What reads it.
        shared: Whether other blocks have the same module.
    """

    layer: int
    name: str
    module: nn.Module
    adapter: Adapter
    shared: bool = False


def find_mixers(model: nn.Module) -> list[MixerSite]:
    """Every mixer that an adapter reads, in the order of the blocks, under the index of its block.

    A mixer that several blocks share stands once, under the first of them (`find_blocks` has it in each).

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
    blocks = block_names(model, [name for name, _, _ in found])
    places = [
        next(i for i, block in enumerate(blocks) if is_within(name, block)) for name, _, _ in found
    ]
    return [MixerSite(place, *mixer) for place, mixer in zip(places, found, strict=True)]


def block_names(model: nn.Module, mixers: Sequence[str]) -> list[str]:
    """The dotted name of every block of the model, those without a mixer included; a block's index is its place.

    The blocks are what lies beside a block with a mixer: "backbone.layers.31" of "backbone.layers.31.mixer", and all
    other children of "backbone.layers". Where mixers share a block, or have none, each stands for a block of its own.

    Args:
        model: The model.
        mixers: The names of its mixers.
    """
    with_mixer = [re.match(r"(?:.*\.)?\d+(?=\.|$)", name) for name in mixers]
    own = [match[0] for match in with_mixer if match]
    if len(set(own)) < len(mixers):
        return list(mixers)
    stacks = dict.fromkeys(name.rpartition(".")[0] for name in own)
    return [
        f"{stack}.{child}" if stack else child
        for stack in stacks
        for child, _ in model.get_submodule(stack).named_modules(remove_duplicate=False)
        if child and "." not in child
    ]


def is_within(name: str, block: str) -> bool:
    """Whether the module of this name is the block, or lies in it."""
    return name == block or name.startswith(f"{block}.")


def count_blocks(model: nn.Module, sites: Sequence[MixerSite]) -> int:
    """Number of blocks of the model, those without a mixer included."""
    return len(block_names(model, [site.name for site in sites]))


def token_mixers(model: nn.Module) -> list[str]:
    """The classes that mix tokens in a model of any library, told by their names; of nested ones the outermost."""
    mixers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if _MIXES_TOKENS.search(type(module).__name__) and not any(
            is_within(name, outer) for outer in mixers
        ):
            mixers[name] = module
    return list(dict.fromkeys(type(module).__name__ for module in mixers.values()))


def adapter_of(module: nn.Module) -> Adapter | None:
    """The adapter that reads this module, or None. A subclass is read as the class it extends."""
    for cls in type(module).__mro__:
        path = f"{cls.__module__}.{cls.__qualname__}"
        if path in adapters:
            return adapters[path]
    return None


def _unsupported(model: nn.Module) -> str:
    classes = [type(m) for m in model.modules()]
    near = [c for c in classes if _LOOKS_LIKE_A_MIXER.search(c.__name__)]
    seen = f" (it has {near[-1].__module__}.{near[-1].__qualname__})" if near else ""
    if (reason := why_refused(model)) is not None:
        return f"no layer of {type(model).__name__} can be read: {reason}"
    supported = ", ".join(dict.fromkeys(adapters[path].family for path in adapters))
    return f"no layer of {type(model).__name__}{seen} can be read; supported mixers: {supported}"
