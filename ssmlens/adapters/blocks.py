"""What each block of a model is: hybrids have attention, MLPs and mixtures of experts beside their mixers."""

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

# By class name, in every library: the token mixing is self-attention (unless an adapter reads it: linear attention is a
# mixer), the feed-forward is what these say.
_ATTENTION = re.compile(r"(Attention|MHA)\d*$")
# Of flash-linear-attention's layers, most of which are called attention, those in these files are.
_FLA = re.compile(r"fla\.layers\.(?!attn$|bitattn$|mla$)")
_MOE = re.compile(r"(MoE|MOE|MoeBlock|Experts)$")
_MLP = re.compile(r"(MLP|Mlp|FeedForward|FFN)$")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a model.

    Attributes:
        layer: Its index.
        module: The block.
        mixer: The mixer in it that an adapter reads, or None.
        attention: The softmax attention in it, or None. Several blocks may share the module (Zamba), or a mixer.
        turn: Of the blocks that are one module, how many stand before this one: that many calls of it are not its own.
        turns: How many blocks are this module.
    """

    layer: int
    module: nn.Module
    mixer: MixerSite | None
    attention: MixerSite | None
    turn: int = 0
    turns: int = 1

    @property
    def sites(self) -> list[MixerSite]:
        """What can be recorded in it: its mixer, its attention, both or neither."""
        both = [site for site in (self.mixer, self.attention) if site]
        return [site for site in both if site.adapter.unreadable(site.module) is None]

    @property
    def mlps(self) -> list[nn.Module]:
        """Its MLP or mixture of experts: of nested ones the outermost, and none inside of what mixes tokens."""
        mixing = [site.module for site in (self.mixer, self.attention) if site]
        found: dict[str, nn.Module] = {}
        for name, module in self.module.named_modules():
            if module in mixing or any(is_within(name, outer) for outer in found):
                continue
            if any(module in mixer.modules() for mixer in mixing):
                continue
            if any(pattern.search(type(module).__name__) for pattern in (_MOE, _MLP)):
                found[name] = module
        return list(found.values())

    @property
    def kind(self) -> str:
        """One of `names.BLOCK_KINDS`: what mixes its tokens, or what else it is."""
        kinds = [site.adapter.block_kind for site in (self.mixer, self.attention) if site]
        if kinds:
            return "+".join(kinds)
        classes = [type(module).__name__ for module in self.module.modules()]
        for kind, pattern in ((names.MOE, _MOE), (names.MLP, _MLP)):
            if any(pattern.search(name) for name in classes):
                return kind
        return names.OTHER


def find_blocks(model: nn.Module) -> list[Block]:
    """Every block of the model, in order: also where all of them are mamba_ssm's attention.

    Raises:
        UnsupportedModelError: No adapter reads anything in the model.
    """
    modules = model.named_modules()
    mhas = [] if _has_mixer(model) else [name for name, module in modules if is_mha(module)]
    mixers = {} if mhas else {site.layer: site for site in find_mixers(model)}
    blocks = block_names(model, mhas or [site.name for site in mixers.values()])
    attention = {
        layer: MixerSite(layer, name, module, SOFTMAX)
        # The outermost module of a block comes first, and is the one that stays.
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
    named = _ATTENTION.search(type(module).__name__) and not _FLA.match(type(module).__module__)
    return bool(named) and adapter_of(module) is None


def _shared_mixers(
    blocks: Sequence[str], modules: Sequence[nn.Module], mixers: Mapping[int, MixerSite]
) -> dict[int, MixerSite]:
    """The mixers of blocks that have one of an earlier block."""
    known = {site.module: site for site in mixers.values()}
    found: dict[int, MixerSite] = {}
    for layer, module in enumerate(modules):
        if layer in mixers:
            continue
        for inside, part in module.named_modules():
            if part in known:
                name = f"{blocks[layer]}.{inside}" if inside else blocks[layer]
                found[layer] = dataclasses.replace(known[part], layer=layer, name=name)
                break
    return found


def block_kinds(model: nn.Module) -> list[str]:
    """What each block of the model is, of `names.BLOCK_KINDS`."""
    return [block.kind for block in find_blocks(model)]


def _has_mixer(model: nn.Module) -> bool:
    return any(adapter_of(module) is not None for module in model.modules())
