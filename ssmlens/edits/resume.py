"""Forwards that compute only from the first edited layer on, and replay the unedited outputs of the blocks before it.

The model's own code still calls every block, with its hooks. Only the `forward` of an earlier block is replaced, by a
function that returns the block's output of the unedited forward. So this works however a model calls its blocks,
whatever it passes from one to the next (mamba_ssm: the hidden state and the residual stream), and whatever it computes
before, between and after them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ssmlens.adapters.adapter import arguments
from ssmlens.adapters.blocks import find_blocks
from ssmlens.edits.context import edit_blocks, edits_of
from ssmlens.edits.edit import Edit
from ssmlens.errors import UsageError


class UneditedRun:
    """The outputs of one forward without edits. Edited forwards of the same input then run only the later blocks.

        unedited = UneditedRun(model, input_ids, attention_mask=mask)
        for layer in range(48):
            logits = unedited.edited(Ablate(layer=layer)).logits

    It stores the output of every block: layers × tokens × d_model numbers for each prompt. The stored outputs have no
    gradient, so gradients of edited forwards end at the first edited layer. The model must not change in the meantime,
    and must be deterministic (no dropout).

    Attributes:
        output: The model's output.

    Raises:
        UnsupportedModelError: No layer of the model can be read.
        UsageError: A block did not run, or ran more than once; or the model received a cache.
    """

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any):
        self._model, self._args, self._kwargs = model, args, kwargs
        self._blocks = find_blocks(model)
        self._layers: dict[nn.Module, list[int]] = defaultdict(list)  # blocks may share a module
        for block in self._blocks:
            self._layers[block.module].append(block.layer)
        self._outputs: dict[nn.Module, list[Any]] = {module: [] for module in self._layers}
        with ExitStack() as stack, torch.no_grad():
            for module, outputs in self._outputs.items():
                forward = _recording(outputs, module.forward)
                stack.enter_context(_forward_replaced(module, forward))
            self.output = model(*args, **kwargs)
        given = arguments(model, args, kwargs)
        mixers = [block.mixer for block in self._blocks if block.mixer]
        caches = (site.adapter.cached_by(site.module, given) for site in mixers)
        for name in filter(None, caches):
            raise UsageError(f"{name} now contains the state of this forward: leave it out")
        for module, layers in self._layers.items():
            if len(self._outputs[module]) != len(layers):
                raise UsageError(
                    f"layer {layers[0]} ran {len(self._outputs[module])} times in one forward, not {len(layers)}: "
                    "use editing, which runs full forwards"
                )

    def edited(self, edits: Edit | Sequence[Edit | Mapping[str, Any]]) -> Any:
        """The model's output for the same input with these edits: bit for bit that of a forward within `editing`.

        Raises:
            UsageError: As `editing`.
        """
        edits = edits_of(edits)
        first = min((edit.layer for edit in edits), default=len(self._blocks))
        with edit_blocks(self._model, self._blocks, edits), self.resumed(first):
            return self._model(*self._args, **self._kwargs)

    @contextmanager
    def resumed(self, layer: int) -> Iterator[None]:
        """Run the model from this layer on: the blocks before it return their unedited outputs.

        Forwards inside the `with` block must have the same input as the unedited one.
        """
        with ExitStack() as stack:
            for module, layers in self._layers.items():
                if layers[0] < layer:
                    forward = _replay(self._outputs[module], layers, layer, module.forward)
                    stack.enter_context(_forward_replaced(module, forward))
            yield


def _recording(outputs: list[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a forward so that it also appends what it returns to `outputs`, before hooks change it."""

    def record(*args: Any, **kwargs: Any) -> Any:
        outputs.append(forward(*args, **kwargs))
        return outputs[-1]

    return record


def _replay(
    outputs: Sequence[Any], layers: Sequence[int], first: int, forward: Callable[..., Any]
) -> Callable[..., Any]:
    """A forward for a module that is the block of each of `layers` in turn.

    It returns the recorded output for a layer before `first`, and computes the others.
    """
    calls = 0

    def replay(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        call, calls = calls, (calls + 1) % len(layers)
        return outputs[call] if layers[call] < first else forward(*args, **kwargs)

    return replay


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")  # accelerate's, of a model with a device_map
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
