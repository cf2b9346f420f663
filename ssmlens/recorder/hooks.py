"""Hooks on the mixers themselves: their input and output, from any model, fused or not.

Hooks on the modules inside a mixer would record nothing: fused paths read `conv1d.weight` and `dt_proj.weight` and
never call those modules.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import MixerSite
from ssmlens.errors import UsageError
from ssmlens.scan.operands import ScanOperands

log = logging.getLogger("ssmlens")


@dataclasses.dataclass(frozen=True)
class MixerCall:
    """One call of one mixer.

    Attributes:
        site: Which mixer.
        given: Its input.
        output: What it really put out.
        autocast: The dtype autocast computed with, or None.
    """

    site: MixerSite
    given: MixerInput
    output: Float[Tensor, "batch token d_model"]
    autocast: torch.dtype | None = None

    def operands(self) -> ScanOperands:
        """The operands the mixer's scan got, recomputed from its input and its weights as they are now."""
        with torch.no_grad(), self.precision():
            return self.site.adapter.project(self.site.module, self.given)

    def precision(self) -> Any:
        """A context that computes in the precision of the call."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.output.device.type, dtype=self.autocast)


@contextmanager
def hooked(sites: Sequence[MixerSite], on_call: Callable[[MixerCall], None]) -> Iterator[None]:
    """Call `on_call` after every call of these mixers; the hooks are gone afterwards, whatever happened.

    A cached step after a recorded prefill (as in `model.generate()`) is passed over, and logged once.

    Raises:
        UsageError: (in the model's call) A call that cannot be recorded, by name.
    """
    recorded: set[int] = set()
    said: set[str] = set()

    def before(site: MixerSite, module: nn.Module, args: tuple, kwargs: dict) -> None:
        reason = site.adapter.refusal(module, args, kwargs)
        if reason is None:
            waiting[site.layer] = site.adapter.read_input(module, args, kwargs)
            return
        if site.layer not in recorded or "cached" not in reason:
            raise UsageError(f"layer {site.layer}: {reason}")
        if reason not in said:
            said.add(reason)
            log.warning("only the prefill is recorded: %s", reason)

    def after(site: MixerSite, output: Any) -> None:
        given = waiting.pop(site.layer, None)
        if given is not None:
            recorded.add(site.layer)
            first = output[0] if isinstance(output, tuple) else output
            on_call(MixerCall(site, given, first, _autocast_dtype(first.device)))

    waiting: dict[int, MixerInput] = {}
    handles = []
    try:
        for site in sites:
            handles.append(
                site.module.register_forward_pre_hook(
                    lambda m, a, k, site=site: before(site, m, a, k), with_kwargs=True
                )
            )
            handles.append(
                site.module.register_forward_hook(lambda m, a, out, site=site: after(site, out))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes in on `device` right now, or None where it is off."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)
