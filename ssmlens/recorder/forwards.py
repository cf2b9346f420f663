"""Track which block runs in a model's forward: blocks may share a module, or run several times."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from ssmlens.adapters.blocks import Block


class Forwards:
    """Follows the forwards of a model from module to module.

    A forward begins when the outermost module around the blocks is called, or a block on its own.

    Args:
        model: The model.
        blocks: The blocks to follow.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[Block]):
        self._blocks = list(dict.fromkeys(block.module for block in blocks))
        self._around = list(dict.fromkeys(_around(model, self._blocks)))
        self._running: list[nn.Module] = []  # outermost first
        self._entered: dict[nn.Module, int] = {}  # times in this forward
        self._counts: dict[Hashable, int] = {}

    def attach(self, stack: ExitStack) -> None:
        """Hook the modules; `stack` removes the hooks. Call this last, so that other hooks run between these."""
        for module in (*self._around, *self._blocks):
            stack.callback(module.register_forward_pre_hook(self._enter, prepend=True).remove)
            stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)

    def runs(self, block: Block) -> bool:
        """Whether the block runs now. Blocks that are one module are told apart only in a forward of the model."""
        if block.module not in self._running:
            return False
        if block.turns == 1:
            return True
        turn = (self._entered[block.module] - 1) % block.turns
        return self.whole and turn == block.turn

    @property
    def whole(self) -> bool:
        """Whether a module around the blocks runs, not a block on its own (as when autograd reruns it)."""
        return bool(self._running) and self._running[0] in self._around

    def rounds(self, block: Block) -> int:
        """Number of calls of the block in this forward, this one included."""
        return -(-self._entered.get(block.module, 0) // block.turns)

    def count(self, key: Hashable) -> int:
        """Count `key`; return how often it was counted before in this forward. Outside a forward: 0."""
        if not self._running:
            return 0
        before = self._counts.get(key, 0)
        self._counts[key] = before + 1
        return before

    def _enter(self, module: nn.Module, *_: Any) -> None:
        if self._running:
            self._leave(module)  # left over from an interrupted forward
        if not self._running:
            self._entered.clear()
            self._counts.clear()
        self._running.append(module)
        self._entered[module] = self._entered.get(module, 0) + 1

    def _leave(self, module: nn.Module, *_: Any) -> None:
        running = self._running
        if running and running[-1] is module:  # nearly always: searching takes longer
            running.pop()
        elif module in running:
            del running[running.index(module) :]


def _around(model: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """The modules around these blocks, the model first."""
    for name, module in model.named_modules():
        if module in blocks:
            parts = name.split(".") if name else []
            for end in range(len(parts)):
                yield model.get_submodule(".".join(parts[:end]))
