"""`editing(model, edits)`: run a model as if its layers computed something else."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

from torch import nn

from ssmlens.adapters.blocks import Block, find_blocks
from ssmlens.edits.block_hooks import BlockHooks
from ssmlens.edits.edit import ATTENTION, MIXER, Edit, from_json
from ssmlens.edits.forward import Forward
from ssmlens.errors import UsageError
from ssmlens.recorder.eager import eager
from ssmlens.recorder.forwards import Forwards

_edited: WeakSet[nn.Module] = WeakSet()


@contextmanager
def editing(model: nn.Module, edits: Edit | Sequence[Edit | Mapping[str, Any]]) -> Iterator[None]:
    """Edit what layers of `model` compute, inside the `with` block.

        with ssmlens.editing(model, KnockOut(layer=17, queries="64:", keys="0:64")):
            logits = model(input_ids).logits

    The mixers run as they are, fused. Of an edited one, what the edits change is added to its output: finish(edited) −
    finish(unedited), from the same operands; an edit that changes nothing changes no bit, and everything after the
    layer sees the edited stream. Edits of one layer apply by stage: residual stream, input, operands, state (in time),
    entries of M (of the edited operands), scan output, mixer output, MLP, block; within a stage in the order given.
    Tokens count from each prompt's first real one. All is differentiable where the model is. A `recording` of an edited
    layer shows its operands before the edit, and what it put out after it. A compiled model runs uncompiled. A mixer
    that several blocks share is edited in the block that the edit names; one that runs twice in it is refused.

    Under `generate`, edits of inputs and outputs hold at every cached step; edits of operands, state and entries of M
    hold in the prefill, and a cached step is refused.

    Args:
        model: Any model that can be recorded.
        edits: What is changed: edits, or their JSON.

    Raises:
        UnsupportedModelError: No layer of the model can be read.
        UsageError: A layer is out of range or lacks what an edit changes; the model is being edited already; or, in the
            model's call or at the end: a token, head or state is out of range, or the layer did not run.
    """
    with edit_blocks(model, find_blocks(model), edits_of(edits)):
        yield


def edits_of(
    edits: Edit | Mapping[str, Any] | Sequence[Edit | Mapping[str, Any]],
) -> list[Edit]:
    """The edits that were given, whether as edits or as their JSON.

    Raises:
        UsageError: Such JSON is of no edit.
    """
    given = [edits] if isinstance(edits, Edit | Mapping) else list(edits)
    return [edit if isinstance(edit, Edit) else from_json(edit) for edit in given]


@contextmanager
def edit_blocks(model: nn.Module, blocks: Sequence[Block], edits: Sequence[Edit]) -> Iterator[None]:
    """What `editing` does, where the blocks of the model are known: finding them in a large one takes milliseconds.

    Raises:
        UsageError: As `editing`.
    """
    for edit in edits:
        if not 0 <= edit.layer < len(blocks):
            raise UsageError(f"{edit}: layer {edit.layer} is out of range: there are {len(blocks)}")
        if edit.part not in (MIXER, ATTENTION):
            raise UsageError(f"{edit}: part is {MIXER} or {ATTENTION}")
        edit.check()
    if model in _edited:
        raise UsageError("the model is being edited already: give all edits at once")
    parts = [part for edit in edits for part in edit.parts()]
    forward = Forward([block.mixer for block in blocks if block.mixer])
    layers = sorted({edit.layer for edit in parts})
    forwards = Forwards(model, [blocks[layer] for layer in layers])
    hooks = {
        layer: BlockHooks(
            blocks[layer], [edit for edit in parts if edit.layer == layer], forward, forwards
        )
        for layer in layers
    }
    with ExitStack() as stack:
        stack.enter_context(eager())
        _edited.add(model)
        stack.callback(_edited.discard, model)
        begin = model.register_forward_pre_hook(forward.begin, with_kwargs=True)
        stack.callback(begin.remove)
        for layer in layers:
            hooks[layer].attach(stack)
        forwards.attach(stack)
        yield
    _check_done(edits, hooks, forward)


def _check_done(edits: Sequence[Edit], hooks: Mapping[int, BlockHooks], forward: Forward) -> None:
    """Raise UsageError for an edit whose layer did not run, or whose tokens there were none of."""
    if not forward.called:
        return
    for edit in edits:
        if not hooks[edit.layer].ran:
            raise UsageError(f"{edit}: layer {edit.layer} did not run, so nothing was edited")
        for selection, name in edit.tokens_named():
            if not bool(selection.clipped(max(1, forward.longest), forward.longest).any()):
                raise UsageError(
                    f"{edit}: {name} {selection} is past the prompt, which has {forward.longest} tokens"
                )
