"""Hooks on mixers and attention modules themselves: what went in and came out, from any model, fused or not.

Hooks on the modules inside a mixer would record nothing: fused paths read `conv1d.weight` and `dt_proj.weight` and
never call those modules.
"""

import dataclasses
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.blocks import AttentionSite, Block
from ssmlens.adapters.find import MixerSite
from ssmlens.errors import UsageError
from ssmlens.recorder.calls import AttentionCall, MixerCall, autocast_dtype, weights_device

log = logging.getLogger("ssmlens")

OnCall = Callable[[MixerCall | AttentionCall], None]


@contextmanager
def hooked(blocks: Sequence[Block], on_call: OnCall) -> Iterator[None]:
    """Call `on_call` after every call of these blocks' mixers, and of their attention where its weights are to be had.

    The hooks are gone afterwards, whatever happened. A cached step after a recorded prefill (as in
    `model.generate()`) is passed over, and logged once.

    Raises:
        UsageError: A mixer's weights are nowhere, or on several devices; or, in the model's call: it cannot be
            recorded, and why.
    """
    hooks = _Hooks(on_call)
    with ExitStack() as stack:
        for block in blocks:
            for handle in hooks.on(block):
                stack.callback(handle.remove)
        yield


class _Hooks:
    def __init__(self, on_call: OnCall):
        self._on_call = on_call
        self._given: dict[int, MixerInput] = {}
        self._running: dict[nn.Module, AttentionSite] = {}  # a module may be shared by blocks
        self._recorded: set[int] = set()
        self._hooked: set[nn.Module] = set()
        self._said = False

    def on(self, block: Block) -> Iterator[Any]:
        """Hook a block; yields the handles."""
        mixer, attention = block.mixer, block.attention
        if mixer is not None:
            weights_device(mixer)  # refuses what cannot be recorded
            yield mixer.module.register_forward_pre_hook(
                lambda _, args, kwargs: self._before(mixer, args, kwargs), with_kwargs=True
            )
            yield mixer.module.register_forward_hook(
                lambda _, args, output: self._after(mixer, output)
            )
        if attention is not None and attention.has_weights:
            if attention.computed:
                weights_device(attention)
            enter = self._running.__setitem__
            yield block.module.register_forward_pre_hook(
                lambda *_: enter(attention.module, attention), prepend=True
            )
            if attention.module not in self._hooked:
                self._hooked.add(attention.module)
                yield attention.module.register_forward_hook(self._attended, with_kwargs=True)
            leave = self._running.pop
            yield block.module.register_forward_hook(
                lambda *_: (leave(attention.module, None), None)[1], always_call=True
            )

    def _before(self, site: MixerSite, args: tuple, kwargs: dict) -> None:
        reason = site.adapter.refusal(site.module, args, kwargs)
        if reason is None:
            self._given[site.layer] = site.adapter.read_input(site.module, args, kwargs)
        else:
            self._pass_over(site.layer, reason)

    def _after(self, site: MixerSite, output: Any) -> None:
        given = self._given.pop(site.layer, None)
        if given is None:
            return
        self._recorded.add(site.layer)
        where = weights_device(site)
        first = (output[0] if isinstance(output, tuple) else output).to(where)
        mask = None if given.token_mask is None else given.token_mask.to(where)
        here = dataclasses.replace(given, hidden=given.hidden.to(where), token_mask=mask)
        self._on_call(MixerCall(site, here, first, autocast_dtype(where)))

    def _attended(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        site = self._running.get(module)
        if site is None:
            return
        if site.computed:
            bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
            cached = getattr(bound.get("inference_params"), "seqlen_offset", 0) > 0
            where = weights_device(site)
            call = AttentionCall(site, given=bound["x"].to(where), autocast=autocast_dtype(where))
        else:
            weights = _weights_in(output)
            if weights is None:
                raise UsageError(
                    f"layer {site.layer}: {type(module).__name__} put out no attention weights"
                )
            cached = weights.shape[2] != weights.shape[3]
            call = AttentionCall(site, returned=weights)
        if cached:
            self._pass_over(site.layer, "a cached step is not recorded; record the prefill")
        else:
            self._recorded.add(site.layer)
            self._on_call(call)

    def _pass_over(self, layer: int, reason: str) -> None:
        if layer not in self._recorded or "cached" not in reason:
            raise UsageError(f"layer {layer}: {reason}")
        if not self._said:
            self._said = True
            log.warning("only the prefill is recorded: %s", reason)


def _weights_in(output: Any) -> Tensor | None:
    """The tensor [batch head query key] in what an attention module put out."""
    rest = output[1:] if isinstance(output, tuple) else ()
    return next((part for part in rest if isinstance(part, Tensor) and part.ndim == 4), None)
