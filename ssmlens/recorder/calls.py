"""What a mixer or an attention module was given and gave in one call, and what can be computed from that."""

import dataclasses
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.blocks import AttentionSite
from ssmlens.adapters.find import MixerSite
from ssmlens.errors import UsageError
from ssmlens.models.attention import softmax_attention_map, softmax_weights
from ssmlens.scan.operator import Operator


@dataclasses.dataclass(frozen=True)
class MixerCall:
    """One call of one mixer.

    Attributes:
        site: Which mixer.
        given: Its input, on the device of its weights.
        output: What it really put out, on the device of its weights.
        autocast: The dtype autocast computed with, or None.
    """

    site: MixerSite
    given: MixerInput
    output: Float[Tensor, "batch token d_model"]
    autocast: torch.dtype | None = None

    def operands(self) -> Operator:
        """The operands the mixer's scan got, recomputed from its input and its weights as they are now."""
        with torch.no_grad(), self.precision():
            return self.site.adapter.project(self.site.module, self.given)

    def precision(self) -> Any:
        """A context that computes in the precision of the call."""
        return _precision(self.output.device, self.autocast)

    def detached(self) -> "MixerCall":
        """The call without its autograd graph."""
        given = dataclasses.replace(self.given, hidden=self.given.hidden.detach())
        return dataclasses.replace(self, given=given, output=self.output.detach())


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """One call of one module of softmax attention.

    Attributes:
        site: Which attention; of several blocks that share a module, the one that ran.
        returned: The weights that it put out, or None where they are computed (`AttentionSite.computed`).
        given: Its input, on the device of its weights, where they are computed.
        autocast: The dtype autocast computed with, or None.
    """

    site: AttentionSite
    returned: Float[Tensor, "batch head query key"] | None = None
    given: Float[Tensor, "batch token d_model"] | None = None
    autocast: torch.dtype | None = None

    def weights(self) -> Float[Tensor, "batch head query key"]:
        """The softmax weights of every head."""
        return self._computed(softmax_weights) if self.returned is None else self.returned

    def attention_map(self) -> Float[Tensor, "batch query key"]:
        """The mean of the weights over the heads, in float32 at least."""
        if self.returned is None:
            return self._computed(softmax_attention_map)
        return self.returned.mean(1, dtype=torch.promote_types(self.returned.dtype, torch.float32))

    def detached(self) -> "AttentionCall":
        """The call without its autograd graph."""
        kept = {
            name: None if tensor is None else tensor.detach()
            for name, tensor in (("returned", self.returned), ("given", self.given))
        }
        return dataclasses.replace(self, **kept)

    def _computed(self, function: Any) -> Tensor:
        assert self.given is not None
        with torch.no_grad(), _precision(self.given.device, self.autocast):
            return function(self.given, self.site.module)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes in on `device` right now, or None where it is off."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def weights_device(site: MixerSite | AttentionSite) -> torch.device:
    """Where a module's weights lie; accelerate moves its input there only inside its forward.

    Raises:
        UsageError: They are offloaded, or on several devices.
    """
    devices = {parameter.device for parameter in site.module.parameters()}
    if any(device.type == "meta" for device in devices):
        raise UsageError(
            f"layer {site.layer}: its weights are offloaded (on device meta); "
            "load the model with this layer on a device"
        )
    if len(devices) > 1:
        raise UsageError(
            f"layer {site.layer}: its weights lie on {', '.join(sorted(map(str, devices)))}; "
            "load the model with each layer on one device"
        )
    return next(iter(devices))


def versions(module: nn.Module) -> list[tuple[int, int]]:
    """What tells whether the module's weights were changed or replaced."""
    return [(p.data_ptr(), -1 if p.is_inference() else p._version) for p in module.parameters()]


def _precision(device: torch.device, autocast: torch.dtype | None) -> Any:
    return nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast)
