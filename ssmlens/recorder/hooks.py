"""Hooks on mixers and attention modules themselves: what went in and came out, from any model, fused or not.

Hooks on the modules inside a mixer would record nothing: fused paths read `conv1d.weight` and `dt_proj.weight` and
never call those modules. Where somebody's own hooks or adapters are on such modules, `layer_calls` looks whether they
are called.
"""

import logging
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
from ssmlens.recorder.layer_calls import LayerCalls

log = logging.getLogger("ssmlens")

OnCall = Callable[[MixerCall], None]


@contextmanager
def hooked(blocks: Sequence[Block], on_call: OnCall) -> Iterator[None]:
    """Call `on_call` after every call of what mixes tokens in these blocks (`Block.sites`).

    The hooks are gone afterwards, whatever happened. Compiled models run uncompiled meanwhile (`eager`). A cached step
    after a recorded prefill (as in `model.generate()`) is passed over, and logged once.

    Raises:
        UsageError: A mixer's weights are nowhere, or on several devices; or, in the model's call: it cannot be
            recorded, and why.
    """
    hooks = _Hooks(on_call)
    with eager(), ExitStack() as stack:
        stack.callback(hooks.stop)
        for block in blocks:
            for handle in hooks.on(block):
                stack.callback(handle.remove)
        yield


class _Hooks:
    def __init__(self, on_call: OnCall):
        self._on_call = on_call
        self._given: dict[nn.Module, MixerInput] = {}
        self._running: dict[nn.Module, MixerSite] = {}  # whose call a module's next one is
        self._hooked: set[nn.Module] = set()
        self._recorded: set[int] = set()
        self._said: set[str] = set()
        self._watched: dict[nn.Module, LayerCalls] = {}

    def on(self, block: Block) -> Iterator[Any]:
        """Hook a block; yields the handles."""
        for site in block.sites:
            module = site.module
            if site.adapter.needs_weights(module):
                weights_device(site)  # refuses what cannot be recorded
            if site.adapter.shared:
                enter = partial(self._enter, site)
                yield block.module.register_forward_pre_hook(enter, prepend=True)
            else:
                self._running[module] = site
            if module not in self._hooked:
                self._hooked.add(module)
                # Of the module, not of what is called: DataParallel calls copies.
                before, after = partial(self._before, module), partial(self._after, module)
                yield module.register_forward_pre_hook(before, with_kwargs=True)
                yield module.register_forward_hook(after)
            if site.adapter.shared:
                leave = partial(self._leave, module)
                yield block.module.register_forward_hook(leave, always_call=True)

    def stop(self) -> None:
        """Take off what a forward that failed has left."""
        for watched in self._watched.values():
            watched.stop()

    def _enter(self, site: MixerSite, *_: Any) -> None:
        self._running[site.module] = site

    def _leave(self, module: nn.Module, *_: Any) -> None:
        self._running.pop(module, None)

    def _before(self, module: nn.Module, _: nn.Module, args: tuple, kwargs: dict) -> None:
        site = self._running.get(module)
        if site is None:  # called by a block that is not recorded
            return
        reason = site.adapter.refusal(module, args, kwargs)
        if reason is None:
            self._given[module] = site.adapter.read_input(module, args, kwargs)
            if site.adapter.needs_weights(module):
                self._watched[module] = LayerCalls(module)
        else:
            self._pass_over(site.layer, reason)

    def _after(self, module: nn.Module, _: nn.Module, args: tuple, output: Any) -> None:
        given = self._given.pop(module, None)
        if given is None:
            return
        site = self._running[module]
        if (watched := self._watched.pop(module, None)) is not None:
            for name in watched.close():
                self._say(
                    f"layer {site.layer}: {type(module).__name__} reads the weight of {name} and never calls it: "
                    "the hooks or the adapter there do nothing; hook the mixer, or merge the adapter",
                    once=f"{type(module).__name__}.{name}",
                )
        try:
            given, first = site.adapter.read_output(module, given, output)
        except CallRefusedError as refused:
            self._pass_over(site.layer, str(refused))
            return
        self._recorded.add(site.layer)
        where = call_device(site, first)
        here = given.map(lambda tensor: tensor.to(where))
        self._on_call(MixerCall(site, here, first.to(where), autocast_dtype(where)))

    def _pass_over(self, layer: int, reason: str) -> None:
        if layer not in self._recorded or "cached" not in reason:
            raise UsageError(f"layer {layer}: {reason}")
        self._say(f"only the prefill is recorded: {reason}", once="prefill")

    def _say(self, line: str, once: str = "") -> None:
        if (once or line) not in self._said:
            self._said.add(once or line)
            log.warning(line)
