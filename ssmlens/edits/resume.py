"""Forwards that begin at the first edited layer: what comes before it is as it was without edits.

A block before it is called as ever, by the model's own code and with its hooks, but its `forward`, and that alone, is
replaced by one that returns what it put out in the unedited forward. So nothing need be known of how a model calls its
blocks, what it hands from one to the next (mamba_ssm: the hidden state and the residual stream), or what it does
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
    """One forward of a model without edits, kept so that edited ones need run only what an edit can change.

        unedited = UneditedRun(model, input_ids, attention_mask=mask)
        for layer in range(48):
            logits = unedited.edited(Ablate(layer=layer)).logits

    It holds the output of every block: layers × tokens × d_model numbers a prompt. What it holds has no gradient: those
    of edited forwards reach back to the first edited layer. The model must not change meanwhile, and must compute the
    same twice (no dropout).

    Attributes:
        output: What the model put out.

    Raises:
        UnsupportedModelError: No layer of the model can be read.
        UsageError: A block did not run, or more than once; or the model was handed a cache.
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
                forward = _keeping(outputs, module.forward)
                stack.enter_context(_forward_replaced(module, forward))
            self.output = model(*args, **kwargs)
        given = arguments(model, args, kwargs)
        mixers = [block.mixer for block in self._blocks if block.mixer]
        caches = (site.adapter.cached_by(site.module, given) for site in mixers)
        for name in filter(None, caches):
            raise UsageError(f"{name} holds the state of this forward now: leave it out")
        for module, layers in self._layers.items():
            if len(self._outputs[module]) != len(layers):
                raise UsageError(
                    f"layer {layers[0]} ran {len(self._outputs[module])} times in one forward, not {len(layers)}: "
                    "edit it in full forwards, with editing"
                )

    def edited(self, edits: Edit | Sequence[Edit | Mapping[str, Any]]) -> Any:
        """What the model puts out for the same input with these edits: as within `editing`, to the bit.

        Raises:
            UsageError: As `editing`.
        """
        wanted = edits_of(edits)
        first = min((edit.layer for edit in wanted), default=len(self._blocks))
        with edit_blocks(self._model, self._blocks, wanted), self.resumed(first):
            return self._model(*self._args, **self._kwargs)

    @contextmanager
    def resumed(self, layer: int) -> Iterator[None]:
        """In it the model runs from this layer on: blocks before it return what they put out unedited.

        Only for forwards of the same input.
        """
        with ExitStack() as stack:
            for module, layers in self._layers.items():
                if layers[0] < layer:
                    forward = _replay(self._outputs[module], layers, layer, module.forward)
                    stack.enter_context(_forward_replaced(module, forward))
            yield


def _keeping(outputs: list[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same forward, which keeps what it returns, as it is before hooks change it."""

    def keep(*args: Any, **kwargs: Any) -> Any:
        outputs.append(forward(*args, **kwargs))
        return outputs[-1]

    return keep


def _replay(
    outputs: Sequence[Any], layers: Sequence[int], first: int, forward: Callable[..., Any]
) -> Callable[..., Any]:
    """A forward that returns the kept outputs for those of `layers` before `first`, call by call."""
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
