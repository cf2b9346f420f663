"""`editing(model, edits)`: run a model with edits of its layers."""

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
    """Change what layers of `model` compute, inside the `with` block.

        with ssmlens.editing(model, KnockOut(layer=17, queries="64:", keys="0:64")):
            logits = model(input_ids).logits

    The mixers keep their fused code. An edited mixer's output gets the difference finish(edited) − finish(unedited),
    both computed from the same operands. An edit that changes nothing changes no bit. All later modules see the edited
    stream.

    Edits of one layer apply in the order of their stages: residual stream, input, operands, state (earlier tokens
    first), entries of M (from the edited operands), scan output, mixer output, MLP, block. Edits of one stage apply in
    the order given. Token 0 is each prompt's first real token. Edits are differentiable if the model is.

    A `recording` of an edited layer contains its operands before the edit and its output after it. A compiled model
    runs uncompiled. If several blocks share a mixer, the edit applies in the block that it names. A mixer that runs
    twice in one block is refused.

    Under `generate`, edits of inputs and outputs apply at every cached step. Edits of operands, state and entries of M
    apply in the prefill; they refuse a cached step.

    Args:
        model: Any model that can be recorded.
        edits: The edits, or their JSON.

    Raises:
        UnsupportedModelError: No layer of the model can be read.
        UsageError: A layer is out of range or lacks what an edit changes; or the model is already being edited. In the
            model's call or at the end: a token, head or state is out of range, or the layer did not run.
    """
    with edit_blocks(model, find_blocks(model), edits_of(edits)):
        yield


def edits_of(
    edits: Edit | Mapping[str, Any] | Sequence[Edit | Mapping[str, Any]],
) -> list[Edit]:
    """A list of edits, from edits or their JSON.

    Raises:
        UsageError: The JSON describes no edit.
    """
    given = [edits] if isinstance(edits, Edit | Mapping) else list(edits)
    return [edit if isinstance(edit, Edit) else from_json(edit) for edit in given]


@contextmanager
def edit_blocks(model: nn.Module, blocks: Sequence[Block], edits: Sequence[Edit]) -> Iterator[None]:
    """`editing` for known blocks of the model: finding them in a large model takes milliseconds.

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
        raise UsageError("the model is already being edited: give all edits at once")
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
    """Raise UsageError for an edit whose layer did not run, or whose tokens are past every prompt."""
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
