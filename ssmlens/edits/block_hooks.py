"""Apply the edits of one block: to its residual stream, its mixer or attention, its MLP and its own output."""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.adapters.adapter import arguments
from ssmlens.adapters.blocks import Block
from ssmlens.adapters.find import MixerSite
from ssmlens.edits.edit import ATTENTION, Edit, Stage
from ssmlens.edits.forward import Forward
from ssmlens.edits.mixer_hooks import MixerHooks, edit_stream, runs_again_error, stream_edits
from ssmlens.edits.module_calls import (
    first_input,
    first_output,
    returns_residual,
    with_first_input,
    with_first_output,
)
from ssmlens.errors import UsageError
from ssmlens.recorder.calls import weights_device
from ssmlens.recorder.choose import why_not
from ssmlens.recorder.forwards import Forwards

_MIXER_STAGES = range(Stage.INPUT, Stage.OUTPUT + 1)


class BlockHooks:
    """Hooks that apply the edits of one block while its model runs.

    Attributes:
        ran: Whether the block has run.

    Raises:
        UsageError: The block lacks what an edit changes. In the model's call: the block runs more than once.
    """

    def __init__(self, block: Block, edits: Sequence[Edit], forward: Forward, forwards: Forwards):
        self.ran = False
        self._block, self._forward, self._forwards = block, forward, forwards
        self._edit = edits[0]
        self._stream: Tensor | None = None
        # Outputs so far of this block's MLPs: some blocks add the outputs of experts and of a shared MLP.
        self._mlp_outputs: list[Tensor] = []
        self._residual = stream_edits(edits, Stage.RESIDUAL)
        self._added = stream_edits(edits, Stage.BLOCK)
        self._mlp = stream_edits(edits, Stage.MLP)
        if self._mlp and not block.mlps:
            raise UsageError(f"{self._mlp[0]}: layer {block.layer} has no MLP")
        self._mixers: list[MixerHooks] = []
        by_module: dict[nn.Module, tuple[MixerSite, list[Edit]]] = {}
        for edit in edits:
            if edit.stage in _MIXER_STAGES:
                site = _site(block, edit)
                by_module.setdefault(site.module, (site, []))[1].append(edit)
        for site, its_edits in by_module.values():
            self._mixers.append(MixerHooks(site, its_edits, forward, self._running, self._forwards))

    def attach(self, stack: ExitStack) -> None:
        """Hook the block's modules; `stack` unhooks them."""
        block = self._block.module
        on_exit = stack.callback
        hook_before = functools.partial(block.register_forward_pre_hook, prepend=True)
        if self._residual or self._added:
            on_exit(hook_before(self._change_input, with_kwargs=True).remove)
        on_exit(hook_before(self._enter).remove)
        for hooks in self._mixers:
            hooks.attach(stack)
        for module in self._block.mlps if self._mlp else ():
            on_exit(module.register_forward_hook(self._after_mlp).remove)
        if self._added:
            on_exit(block.register_forward_hook(self._after_block).remove)
            on_exit(block.register_forward_hook(self._leave, always_call=True).remove)

    def _running(self) -> bool:
        """Whether the running block is this one; several blocks may share its module."""
        return self._forwards.runs(self._block)

    def _enter(self, *_: Any) -> None:
        if self._block.turns > 1 and not self._forwards.whole:
            raise UsageError(
                f"{self._edit}: {self._block.turns} blocks share this module, and it runs outside the model's forward "
                "(activation checkpointing does that), so the running block is unknown"
            )
        if not self._running():
            return
        if self._forwards.rounds(self._block) > 1:
            raise runs_again_error(self._edit, f"layer {self._block.layer}")
        self.ran = True
        self._mlp_outputs = []

    def _change_input(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        if not self._running():
            return None
        _, hidden = first_input(module, args, kwargs)
        residual = _residual(module, args, kwargs)
        before = hidden if residual is None else hidden + residual
        new = edit_stream(self._residual, before, self._forward)
        if self._added:
            self._stream = new
        if not self._residual:
            return None
        if residual is not None:
            new = hidden + (new - before).to(hidden.dtype)
        return with_first_input(module, args, kwargs, new)

    def _after_mlp(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if not self._running():
            return None
        first = first_output(output)
        self._mlp_outputs.append(first)
        if len(self._mlp_outputs) < len(self._block.mlps):
            return None
        # The block adds their outputs. The edit changes the sum; the last output takes the difference.
        total = sum(self._mlp_outputs[:-1], start=first)
        new = edit_stream(self._mlp, total, self._forward)
        if len(self._mlp_outputs) > 1:
            new = first + (new - total)
        self._mlp_outputs = []
        return with_first_output(output, new)

    def _after_block(self, module: nn.Module, args: tuple, output: Any) -> Any:
        stream, first = self._stream, first_output(output)
        if stream is None:  # another block of the same module
            return None
        residual = output[1] if returns_residual(module) else None
        after = first if residual is None else first + residual
        added = after - stream
        edited = edit_stream(self._added, added, self._forward)
        # Keeps every bit where the edit changes nothing.
        new = torch.where(edited == added, after + (edited - added), stream + edited)
        if residual is not None:
            new = new - residual
        return with_first_output(output, new.to(first.dtype))

    def _leave(self, *_: Any) -> None:
        self._stream = None


def _residual(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    return (
        arguments(module, args, kwargs).get("residual", None) if returns_residual(module) else None
    )


def _site(block: Block, edit: Edit) -> MixerSite:
    """The module that this edit changes.

    Raises:
        UsageError: The block has no such module, or the edit needs weights that cannot be read.
    """
    site = block.attention if edit.part == ATTENTION else block.mixer or block.attention
    if site is None:
        why = why_not(block) if edit.part != ATTENTION else "a block without softmax attention"
        raise UsageError(f"{edit}: layer {block.layer} is {why}")
    if Stage.OPERANDS <= edit.stage <= Stage.SCAN_OUTPUT:
        reason = site.adapter.unreadable(site.module) or site.adapter.unclosable(site.module)
        if reason:
            raise UsageError(f"{edit}: {reason}")
        if site.adapter.needs_weights(site.module):
            weights_device(site)
    return site
