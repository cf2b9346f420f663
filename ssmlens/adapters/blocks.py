"""The blocks of a model and their kinds: hybrids have attention, MLPs and mixtures of experts beside mixers."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import nn

from ssmlens import names
from ssmlens.adapters.find import (
    MixerSite,
    adapter_of,
    block_names,
    find_mixers,
    is_within,
)
from ssmlens.adapters.softmax import SOFTMAX, is_mha

# Class names of any library. A class named like attention is softmax attention, unless an adapter reads it: linear
# attention is a mixer.
_ATTENTION = re.compile(r"(Attention|MHA)\d*$")
# flash-linear-attention calls most of its layers attention; only those in the files named here are softmax attention.
_FLA_WITHOUT_SOFTMAX = re.compile(r"fla\.layers\.(?!attn$|bitattn$|mla$)")
_MOE = re.compile(r"(MoE|MOE|MoeBlock|Experts)$")
_MLP = re.compile(r"(MLP|Mlp|FeedForward|FFN)$")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a model.

    Attributes:
        layer: Its number, from 0.
        module: The block.
        mixer: Its mixer that an adapter reads, or None.
        attention: Its softmax attention, or None. Several blocks may share this module (Zamba), or a mixer.
        turn: Number of earlier blocks that are the same module. Their calls of it come before this block's.
        turns: Number of blocks that are this module.
    """

    layer: int
    module: nn.Module
    mixer: MixerSite | None
    attention: MixerSite | None
    turn: int = 0
    turns: int = 1

    @property
    def sites(self) -> list[MixerSite]:
        """Its modules that can be recorded: its mixer, its attention, both or neither."""
        sites = [site for site in (self.mixer, self.attention) if site]
        return [site for site in sites if site.adapter.unreadable(site.module) is None]

    @property
    def mlps(self) -> list[nn.Module]:
        """Its MLPs and mixtures of experts: the outermost of nested ones, none inside a module that mixes tokens."""
        mixing = [site.module for site in (self.mixer, self.attention) if site]
        outermost: dict[str, nn.Module] = {}
        for name, module in self.module.named_modules():
            if module in mixing or any(is_within(name, outer) for outer in outermost):
                continue
            if any(module in mixer.modules() for mixer in mixing):
                continue
            if any(pattern.search(type(module).__name__) for pattern in (_MOE, _MLP)):
                outermost[name] = module
        return list(outermost.values())

    @property
    def kind(self) -> str:
        """Its kind (`names.BLOCK_KINDS`): how it mixes tokens, or what it contains if it mixes none."""
        kinds = [site.adapter.block_kind for site in (self.mixer, self.attention) if site]
        if kinds:
            return "+".join(kinds)
        classes = [type(module).__name__ for module in self.module.modules()]
        for kind, pattern in ((names.MOE, _MOE), (names.MLP, _MLP)):
            if any(pattern.search(name) for name in classes):
                return kind
        return names.OTHER


def find_blocks(model: nn.Module) -> list[Block]:
    """Find every block of the model, in order, also if mamba_ssm's attention is all that mixes tokens.

    Raises:
        UnsupportedModelError: No adapter reads anything in the model.
    """
    modules = model.named_modules()
    mhas = [] if _has_mixer(model) else [name for name, module in modules if is_mha(module)]
    mixers = {} if mhas else {site.layer: site for site in find_mixers(model)}
    blocks = block_names(model, mhas or [site.name for site in mixers.values()])
    attention = {
        layer: MixerSite(layer, name, module, SOFTMAX)
        # Reversed, so that the outermost module of a block replaces those inside it.
        for name, module in reversed(list(model.named_modules(remove_duplicate=False)))
        if _is_softmax(module)
        for layer, block in enumerate(blocks)
        if is_within(name, block)
    }
    modules = [model.get_submodule(name) for name in blocks]
    mixers |= _shared_mixers(blocks, modules, mixers)
    uses = Counter(id(site.module) for sites in (mixers, attention) for site in sites.values())
    mixers, attention = (
        {n: dataclasses.replace(s, shared=uses[id(s.module)] > 1) for n, s in sites.items()}
        for sites in (mixers, attention)
    )
    return [
        Block(
            layer,
            module,
            mixers.get(layer),
            attention.get(layer),
            turn=sum(earlier is module for earlier in modules[:layer]),
            turns=sum(other is module for other in modules),
        )
        for layer, module in enumerate(modules)
    ]


def _is_softmax(module: nn.Module) -> bool:
    matches = _ATTENTION.search(type(module).__name__) and not _FLA_WITHOUT_SOFTMAX.match(
        type(module).__module__
    )
    return bool(matches) and adapter_of(module) is None


def _shared_mixers(
    blocks: Sequence[str], modules: Sequence[nn.Module], mixers: Mapping[int, MixerSite]
) -> dict[int, MixerSite]:
    """The mixers of blocks that reuse the mixer of an earlier block."""
    known = {site.module: site for site in mixers.values()}
    shared: dict[int, MixerSite] = {}
    for layer, module in enumerate(modules):
        if layer in mixers:
            continue
        for path, part in module.named_modules():
            if part in known:
                name = f"{blocks[layer]}.{path}" if path else blocks[layer]
                shared[layer] = dataclasses.replace(known[part], layer=layer, name=name)
                break
    return shared


def block_kinds(model: nn.Module) -> list[str]:
    """The kind of each block of the model (`names.BLOCK_KINDS`)."""
    return [block.kind for block in find_blocks(model)]


def _has_mixer(model: nn.Module) -> bool:
    return any(adapter_of(module) is not None for module in model.modules())
