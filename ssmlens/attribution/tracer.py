"""Hooks that let autograd track only how a model's blocks combine their modules' outputs."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.adapter import arguments
from ssmlens.adapters.blocks import Block
from ssmlens.attribution.frozen_norm import freeze_norm
from ssmlens.edits.module_calls import (
    first_input,
    first_output,
    returns_residual,
    with_first_output,
)
from ssmlens.errors import UnsupportedModelError

EMBEDDING, BIAS = "embedding", "bias"
_NORM = re.compile(r"Norm$")
# Modules that compute mixing weights from the streams; their output is not a stream.
_STREAM_WEIGHTS = re.compile(r"HyperConnection$")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A module that has run.

    Attributes:
        layer: Index of its block; −1 outside of the blocks.
        kind: Its kind (`direct_path.Part`).
        module: The module.
        output: Its output at the position.
        zero: The tracked zero added to its output; its gradient is `Part.reach`.
    """

    layer: int
    kind: str
    module: nn.Module
    output: Tensor
    zero: Tensor


class Tracer:
    """The hooks on a model while it runs once.

    Attributes:
        leaves: The modules that have run, in order.
        stages: The part of the logit that comes from the stream before each block; filled by the backward pass.
    """

    def __init__(self, model: nn.Module, blocks: list[Block], position: int):
        self.leaves: list[Leaf] = []
        self.stages: list[Tensor] = []
        self._model, self._blocks, self._position = model, blocks, position
        self._block: Block | None = None
        self._grad: list[bool] = []  # whether gradients were enabled, for each running module
        self._stream: Tensor | None = None
        self._head_input: Tensor | None = None
        self._raw: Tensor | None = None
        self._kinds: dict[tuple[int, nn.Module], str] = {}

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """The final norm's input, and the head's input and output at the position."""
        if self._stream is None or self._head_input is None or self._raw is None:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} did not run its blocks and its head: there is no logit to split"
            )
        return self._stream, self._head_input, self._raw

    @contextmanager
    def attached(self, norm: nn.Module, head: nn.Module) -> Iterator[None]:
        """Hook the model inside the block."""
        with ExitStack() as stack:

            def before(module: nn.Module, hook: Any, **options: Any) -> None:
                handle = module.register_forward_pre_hook(hook, with_kwargs=True, **options)
                stack.callback(handle.remove)

            def after(module: nn.Module, hook: Any, **options: Any) -> None:
                stack.callback(module.register_forward_hook(hook, **options).remove)

            def untracked(module: nn.Module, hook: Any) -> None:
                before(module, self._stop_tracking)
                after(module, hook)

            parts: dict[nn.Module, None] = {}  # an ordered set
            for block in self._blocks:
                before(block.module, partial(self._enter, block), prepend=True)
                after(block.module, self._leave)
                for module, kind in _modules(block):
                    self._kinds[block.layer, module] = kind
                    parts[module] = None
            for module in parts:
                untracked(module, self._after_part)
            inside = {id(m) for module in parts for m in module.modules()}
            for module in _others_in(self._blocks, inside, _STREAM_WEIGHTS):
                untracked(module, self._after_untracked)
                inside |= {id(m) for m in module.modules()}
            for module in _others_in(self._blocks, inside, _NORM):
                untracked(module, self._after_norm)
            for module in _embeddings(self._model, self._blocks):
                untracked(module, self._after_part)
            before(norm, self._before_final_norm)
            before(head, self._before_head)
            after(head, self._after_head)
            yield

    def _stop_tracking(self, *_: Any) -> None:
        self._grad.append(torch.is_grad_enabled())
        torch.set_grad_enabled(False)

    def _after_untracked(self, *_: Any) -> None:
        torch.set_grad_enabled(self._grad.pop())

    def _enter(self, block: Block, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._block = block
        _, hidden = first_input(module, args, kwargs)
        streams: list[Any] = [hidden]
        if returns_residual(module):
            streams.append(arguments(module, args, kwargs).get("residual"))
        stage = len(self.stages)
        self.stages.append(hidden.new_zeros((), dtype=torch.double))
        for stream in streams:
            if isinstance(stream, Tensor) and stream.requires_grad:
                value = stream[:, self._position].detach()
                stream.register_hook(partial(self._reached, stage, value))

    def _reached(self, stage: int, value: Tensor, gradient: Tensor) -> None:
        part = (gradient[:, self._position].double() * value.double()).sum()
        self.stages[stage] = self.stages[stage] + part

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._block = None
        hidden = first_output(output)
        self._stream = hidden + output[1] if returns_residual(module) else hidden  # pyright: ignore

    def _after_part(self, module: nn.Module, args: tuple, output: Any) -> Any:
        self._after_untracked()
        hidden = first_output(output)
        layer = -1 if self._block is None else self._block.layer
        kind = self._kinds.get((layer, module), EMBEDDING)
        span = slice(self._position, self._position + 1)
        if hidden.ndim < 3 or hidden.shape[0] != 1 or hidden.shape[1] <= self._position:
            raise UnsupportedModelError(
                f"layer {layer}: {type(module).__name__} returns {tuple(hidden.shape)}, not one vector per token"
            )
        zero = torch.zeros_like(hidden[:, span]).requires_grad_()
        tracked = hidden.detach().clone()
        tracked[:, span] += zero
        at = hidden[0, self._position].detach().flatten()
        self.leaves.append(Leaf(layer, kind, module, at, zero))
        return with_first_output(output, tracked)

    def _after_norm(self, module: nn.Module, args: tuple, output: Any) -> Any:
        self._after_untracked()
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and isinstance(output, Tensor) and x.requires_grad):
            return None
        at = self._position
        frozen = freeze_norm(module, x[0, at], output[0, at]) if x.ndim == 3 else None
        if frozen is None:
            return None
        stream = x[:, at]
        tracked = output.detach().clone()
        tracked[:, at] += frozen.linear(stream - stream.detach()).to(output.dtype)
        if frozen.bias is not None and self._block is not None:
            zero = torch.zeros_like(output[:, at]).requires_grad_()
            tracked[:, at] += zero
            bias = frozen.bias.to(output.dtype)
            self.leaves.append(Leaf(self._block.layer, BIAS, module, bias, zero))
        return tracked

    def _before_final_norm(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if args and isinstance(args[0], Tensor):
            self._stream = args[0]

    def _before_head(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._head_input = args[0][0, self._position].detach()

    def _after_head(self, _: nn.Module, args: tuple, output: Tensor) -> None:
        self._raw = output[0, self._position].detach()


def _modules(block: Block) -> Iterator[tuple[nn.Module, str]]:
    """The modules of a block that may add to the stream, with their kinds; mixers that cannot be read too."""
    for site in (block.mixer, block.attention):
        if site is not None:
            yield site.module, site.adapter.block_kind
    for module in block.mlps:
        yield module, names.MLP


def _others_in(blocks: list[Block], inside: set[int], pattern: re.Pattern) -> list[nn.Module]:
    """The blocks' modules whose class name matches the pattern, without those in `inside`."""
    modules = {
        module: None
        for block in blocks
        for module in block.module.modules()
        if pattern.search(type(module).__name__) and id(module) not in inside
    }
    return list(modules)


def _embeddings(model: nn.Module, blocks: list[Block]) -> list[nn.Module]:
    inside = {id(module) for block in blocks for module in block.module.modules()}
    modules = model.modules()
    return [m for m in modules if isinstance(m, nn.Embedding) and id(m) not in inside]
