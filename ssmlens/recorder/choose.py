"""Choose the blocks of a model to record: the requested ones, or all that can be read."""

import dataclasses
import logging
from collections.abc import Sequence

from ssmlens import names
from ssmlens.adapters.blocks import Block
from ssmlens.adapters.refused import why_refused
from ssmlens.errors import UsageError

log = logging.getLogger("ssmlens")

EAGER = (
    'model.set_attn_implementation("eager"), or load it with attn_implementation="eager", '
    "makes it return its attention weights"
)
_NOTHING_MIXED = {
    names.MLP: "an MLP block: nothing is mixed across tokens",
    names.MOE: "a mixture of experts: nothing is mixed across tokens",
}


def choose_blocks(blocks: Sequence[Block], layers: Sequence[int] | None) -> list[Block]:
    """Choose the blocks with these numbers, in order; None: every block in which something can be read.

    Raises:
        UsageError: A block has nothing to read (the message says why), a number is out of range, or `layers` is empty.
    """
    if layers is not None and not layers:
        raise UsageError(f"no layer is requested: this model has {_readable(blocks)}")
    for layer in layers or ():
        if not 0 <= layer < len(blocks):
            raise UsageError(f"layer {layer} is out of range: this model has {_readable(blocks)}")
        if why := why_not(blocks[layer]):
            raise UsageError(f"layer {layer} is {why}")
    return [
        block
        for block in blocks
        if (why_not(block) is None if layers is None else block.layer in layers)
    ]


def for_long_prompts(
    chosen: Sequence[Block], layers: Sequence[int] | None, channels: Sequence[int] | None
) -> list[Block]:
    """Reduce blocks to what is captured of prompts above `names.LARGEST_WHOLE_MAP` tokens: their mixers.

    Raises:
        UsageError: A block of attention alone, or maps of channels, are requested: these are only stored whole.
    """
    limit = f"which is possible up to {names.LARGEST_WHOLE_MAP} tokens"
    if channels:
        raise UsageError(
            f"`channels` stores whole maps, {limit}; leave it out, and read the maps with Layer.channel_map"
        )
    alone = [block.layer for block in chosen if not block.mixer]
    if alone and (layers or len(alone) == len(chosen)):
        raise UsageError(
            f"maps of softmax attention (layer {_ranges(alone)}) are only stored whole, {limit}"
        )
    if any(block.attention for block in chosen):
        log.warning(
            "maps of softmax attention are not stored: they are only stored whole, %s", limit
        )
    return [dataclasses.replace(block, attention=None) for block in chosen if block.mixer]


def why_not(block: Block) -> str | None:
    """Return why nothing can be read in a block; None if it has a mixer, or attention that returns its weights."""
    if block.sites:
        return None
    if block.attention:
        why = block.attention.adapter.unreadable(block.attention.module)
        return f"{why}; {EAGER}" if hasattr(block.attention.module, "config") else str(why)
    if (reason := why_refused(block.module)) is not None:
        return f"a {type(block.module).__name__}: {reason}"
    class_name = type(block.module).__name__
    return _NOTHING_MIXED.get(block.kind, f"a {class_name}, in which ssmlens reads nothing")


def _readable(blocks: Sequence[Block]) -> str:
    mamba = [block.layer for block in blocks if block.mixer]
    attention = [b.layer for b in blocks if not b.mixer and why_not(b) is None]
    by_name = {"Mamba": mamba, "attention": attention}
    parts = [f"{name} layers {_ranges(layers)}" for name, layers in by_name.items() if layers]
    return " and ".join(parts) or "none that can be read"


def _ranges(layers: list[int]) -> str:
    if len(layers) > 1 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}..{layers[-1]}"
    return ", ".join(map(str, layers))
