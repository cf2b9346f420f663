"""Hooks on mixers and attention modules: they record input and output in any model, fused or not.

Hooks on the modules inside a mixer would record nothing: fused paths read `conv1d.weight` and `dt_proj.weight` and
never call those modules. If other hooks or adapters are on such modules, `layer_calls` checks whether the modules are
called.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from ssmlens.adapters.adapter import CallRefusedError, MixerInput
from ssmlens.adapters.blocks import Block
from ssmlens.adapters.find import MixerSite
from ssmlens.errors import UsageError
from ssmlens.recorder.calls import MixerCall, autocast_dtype, call_device, weights_device
from ssmlens.recorder.eager import eager
from ssmlens.recorder.forwards import Forwards
from ssmlens.recorder.layer_calls import LayerCalls

log = logging.getLogger("ssmlens")

OnCall = Callable[[MixerCall], None]


@contextmanager
def hooked(model: nn.Module, blocks: Sequence[Block], on_call: OnCall) -> Iterator[None]:
    """Call `on_call` after every call of a mixer or attention module in these blocks (`Block.sites`).

    A call of a shared module belongs to the block that runs. If a block calls a module several times in a forward, its
    calls are numbered (`MixerCall.number`). The hooks are removed at the end, also after an error. Compiled models run
    uncompiled meanwhile (`eager`). A cached step after a recorded prefill (as in `model.generate()`) is skipped, and
    one warning is logged.

    Raises:
        UsageError: A mixer's weights are offloaded, or on several devices. In the model's call: the call cannot be
            recorded; the message says why.
    """
    hooks = _Hooks(Forwards(model, blocks), on_call)
    with eager(), ExitStack() as stack:
        stack.callback(hooks.stop)
        hooks.attach(blocks, stack)
        yield


class _Hooks:
    def __init__(self, forwards: Forwards, on_call: OnCall):
        self._forwards = forwards
        self._on_call = on_call
        self._blocks: dict[nn.Module, list[tuple[Block, MixerSite]]] = defaultdict(list)
        self._inputs: dict[nn.Module, tuple[MixerSite, MixerInput, int]] = {}
        self._recorded: set[int] = set()
        self._warned: set[str] = set()
        self._watched: dict[nn.Module, LayerCalls] = {}

    def attach(self, blocks: Sequence[Block], stack: ExitStack) -> None:
        """Hook the mixers and attention modules of these blocks; `stack` removes the hooks."""
        for block in blocks:
            for site in block.sites:
                if site.adapter.needs_weights(site.module):
                    weights_device(site)  # refuses what cannot be recorded
                self._blocks[site.module].append((block, site))
        for module in self._blocks:
            # Bound to the hooked module, because DataParallel calls copies of it.
            before, after = partial(self._before, module), partial(self._after, module)
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after).remove)
        self._forwards.attach(stack)

    def stop(self) -> None:
        """Remove the hooks that a failed forward has left."""
        for watched in self._watched.values():
            watched.stop()

    def _site(self, module: nn.Module) -> MixerSite | None:
        """The site that a call of a module belongs to; None if its block is not recorded."""
        return next(
            (
                site
                for block, site in self._blocks[module]
                if not site.shared or self._forwards.runs(block)
            ),
            None,
        )

    def _before(self, module: nn.Module, called: nn.Module, args: tuple, kwargs: dict) -> None:
        self._inputs.pop(module, None)  # left over from a failed call
        site = self._site(module)
        if site is None:
            return
        reason = site.adapter.refusal(module, args, kwargs)
        if reason is None:
            given = site.adapter.read_input(module, args, kwargs)
            _refuse_split(site, called, given)
            self._inputs[module] = (site, given, self._forwards.count((site.layer, module)))
            if site.adapter.needs_weights(module):
                self._watched[module] = LayerCalls(module)
        elif site.shared and site.layer not in self._recorded and "cached" in reason:
            raise UsageError(
                f"layer {site.layer}: another block has the same mixer, and its state in the cache is continued here: "
                "call the model with use_cache=False"
            )
        else:
            self._skip_or_refuse(site.layer, reason)

    def _after(self, module: nn.Module, _: nn.Module, args: tuple, output: Any) -> None:
        if module not in self._inputs:
            return
        site, given, number = self._inputs.pop(module)
        if (watched := self._watched.pop(module, None)) is not None:
            for name in watched.close():
                self._warn(
                    f"layer {site.layer}: {type(module).__name__} reads the weight of {name} and never calls it: "
                    "hooks or an adapter there have no effect; hook the mixer, or merge the adapter",
                    key=f"{type(module).__name__}.{name}",
                )
        try:
            given, tensor = site.adapter.read_output(module, given, output)
        except CallRefusedError as refused:
            self._skip_or_refuse(site.layer, str(refused))
            return
        self._recorded.add(site.layer)
        device = call_device(site, tensor)
        given = given.map(lambda part: part.to(device))
        autocast = autocast_dtype(device)
        self._on_call(MixerCall(site, given, tensor.to(device), autocast, number=number))

    def _skip_or_refuse(self, layer: int, reason: str) -> None:
        if layer not in self._recorded or "cached" not in reason:
            raise UsageError(f"layer {layer}: {reason}")
        self._warn(f"only the prefill is recorded: {reason}", key="prefill")

    def _warn(self, line: str, key: str) -> None:
        """Log a warning, once for every `key`."""
        if key not in self._warned:
            self._warned.add(key)
            log.warning(line)


def _refuse_split(site: MixerSite, called: nn.Module, given: MixerInput) -> None:
    """Raise UsageError for a DataParallel copy of a module, which gets a part of the batch on another device."""
    is_copy = called is not site.module and getattr(called, "_is_replica", False)
    if is_copy and given.hidden.device not in {p.device for p in site.module.parameters()}:
        raise UsageError(
            f"layer {site.layer}: DataParallel splits the batch over devices; call the model inside it (`.module`)"
        )
