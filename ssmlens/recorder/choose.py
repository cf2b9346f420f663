"""Which blocks of a model are recorded: those that are asked for, or all that can be."""

from collections.abc import Sequence

from ssmlens import names
from ssmlens.adapters.blocks import Block
from ssmlens.errors import UsageError

EAGER = (
    'model.set_attn_implementation("eager"), or load it with attn_implementation="eager", '
    "makes it put out its attention weights"
)
_NOTHING_MIXED = {
    names.MLP: "an MLP block: nothing is mixed across tokens",
    names.MOE: "a mixture of experts: nothing is mixed across tokens",
}


def choose_blocks(blocks: Sequence[Block], layers: Sequence[int] | None) -> list[Block]:
    """The blocks of these indices, in order; None: every block in which something can be read.

    Raises:
        UsageError: A block has nothing to read, and why; an index is none of a block's; or no index is given.
    """
    if layers is not None and not layers:
        raise UsageError(f"no layer is asked for: this model has {_readable(blocks)}")
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


def why_not(block: Block) -> str | None:
    """Why nothing can be read in a block, or None: it has a mixer, or attention whose weights are to be had."""
    if block.mixer or (block.attention and block.attention.has_weights):
        return None
    if block.attention:
        return f"softmax attention, whose weights this model does not put out; {EAGER}"
    named = type(block.module).__name__
    return _NOTHING_MIXED.get(block.kind, f"a {named}, in which ssmlens reads nothing")


def _readable(blocks: Sequence[Block]) -> str:
    mamba = [block.layer for block in blocks if block.mixer]
    attention = [b.layer for b in blocks if not b.mixer and why_not(b) is None]
    more = f" and attention layers {_ranges(attention)}" if attention else ""
    return f"Mamba layers {_ranges(mamba)}{more}"


def _ranges(layers: list[int]) -> str:
    if layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}..{layers[-1]}"
    return ", ".join(map(str, layers))
