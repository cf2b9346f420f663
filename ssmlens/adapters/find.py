"""Find the mixers in a model of any library."""

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
        layer: Number of its block in the model, from 0.
        name: Its dotted name, as `model.get_submodule` takes it.
        module: The mixer.
        adapter: The adapter that reads it.
        shared: Whether other blocks use the same module.
    """

    layer: int
    name: str
    module: nn.Module
    adapter: Adapter
    shared: bool = False


def find_mixers(model: nn.Module) -> list[MixerSite]:
    """Find every mixer that an adapter reads, in the order of the blocks.

    A mixer that several blocks share is listed once, under the first of them; `find_blocks` lists it in each.

    Raises:
        UnsupportedModelError: No adapter reads any module of the model. The message names its class and what is
            supported.
    """
    mixers = [
        (name, module, adapter)
        for name, module in model.named_modules()
        if (adapter := adapter_of(module)) is not None
    ]
    if not mixers:
        raise UnsupportedModelError(_unsupported(model))
    blocks = block_names(model, [name for name, _, _ in mixers])
    layers = [
        next(i for i, block in enumerate(blocks) if is_within(name, block)) for name, _, _ in mixers
    ]
    return [MixerSite(layer, *mixer) for layer, mixer in zip(layers, mixers, strict=True)]


def block_names(model: nn.Module, mixers: Sequence[str]) -> list[str]:
    """The dotted name of every block of the model, in order, those without a mixer included.

    Blocks are the siblings of a block with a mixer: for the mixer "backbone.layers.31.mixer", all children of
    "backbone.layers". If two mixers lie in one block, or a mixer lies in none, each mixer counts as a block.

    Args:
        model: The model.
        mixers: The names of its mixers.
    """
    matches = [re.match(r"(?:.*\.)?\d+(?=\.|$)", name) for name in mixers]
    with_mixer = [match[0] for match in matches if match]
    if len(set(with_mixer)) < len(mixers):
        return list(mixers)
    stacks = dict.fromkeys(name.rpartition(".")[0] for name in with_mixer)
    return [
        f"{stack}.{child}" if stack else child
        for stack in stacks
        for child, _ in model.get_submodule(stack).named_modules(remove_duplicate=False)
        if child and "." not in child
    ]


def is_within(name: str, block: str) -> bool:
    """Whether the module with this name is the block or lies inside it."""
    return name == block or name.startswith(f"{block}.")


def count_blocks(model: nn.Module, sites: Sequence[MixerSite]) -> int:
    """Number of blocks of the model, those without a mixer included."""
    return len(block_names(model, [site.name for site in sites]))


def token_mixers(model: nn.Module) -> list[str]:
    """The classes that mix tokens in a model of any library, by their names; only the outermost of nested ones."""
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
    similar = [c for c in classes if _LOOKS_LIKE_A_MIXER.search(c.__name__)]
    hint = f" (it has {similar[-1].__module__}.{similar[-1].__qualname__})" if similar else ""
    if (reason := why_refused(model)) is not None:
        return f"no layer of {type(model).__name__} can be read: {reason}"
    supported = ", ".join(dict.fromkeys(adapters[path].family for path in adapters))
    return f"no layer of {type(model).__name__}{hint} can be read; supported mixers: {supported}"
