"""What each block of a model is: hybrids have attention, MLPs and mixtures of experts beside their mixers."""

import dataclasses
import re

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
_MOE = re.compile(r"(MoE|MOE|MoeBlock|Experts)$")
_MLP = re.compile(r"(MLP|Mlp|FeedForward|FFN)$")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a model.

    Attributes:
        layer: Its index.
        module: The block.
        mixer: The mixer in it that an adapter reads, or None.
        attention: The softmax attention in it, or None; several blocks may share its module (Zamba).
    """

    layer: int
    module: nn.Module
    mixer: MixerSite | None
    attention: MixerSite | None

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
        if _ATTENTION.search(type(module).__name__) and adapter_of(module) is None
        for layer, block in enumerate(blocks)
        if is_within(name, block)
    }
    return [
        Block(layer, model.get_submodule(name), mixers.get(layer), attention.get(layer))
        for layer, name in enumerate(blocks)
    ]


def block_kinds(model: nn.Module) -> list[str]:
    """What each block of the model is, of `names.BLOCK_KINDS`."""
    return [block.kind for block in find_blocks(model)]


def _has_mixer(model: nn.Module) -> bool:
    return any(adapter_of(module) is not None for module in model.modules())
