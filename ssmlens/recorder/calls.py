"""One call of a mixer: its input and output, and the operands recomputed from them."""

import dataclasses
import inspect
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import MixerSite, adapter_of
from ssmlens.errors import UsageError
from ssmlens.scan.operator import Operator


@dataclasses.dataclass(frozen=True)
class MixerCall:
    """One call of one mixer.

    Attributes:
        site: The mixer, in the block that ran if several blocks share it.
        given: Its input, on the device of its weights.
        output: Its output, on the device of its weights.
        autocast: The dtype of autocast during the call, or None.
        gradients: Whether results computed from the call are differentiable. Input and output then keep their graph.
        number: Number of earlier calls of the block's module in the same forward: 0 in nearly every model.
    """

    site: MixerSite
    given: MixerInput
    output: Float[Tensor, "batch token d_model"]
    autocast: torch.dtype | None = None
    gradients: bool = False
    number: int = 0

    def operands(self) -> Operator:
        """Recompute the operands of the mixer's scan from its input and its current weights."""
        with torch.set_grad_enabled(self.gradients), self.precision():
            return self.site.adapter.project(self.site.module, self.given)

    def precision(self) -> Any:
        """A context that computes in the precision of the call."""
        return _precision(self.output.device, self.autocast)

    def with_gradients(self) -> "MixerCall":
        """Return a copy with its own tensors, whose operands are differentiable back to weights and embeddings.

        Raises:
            UsageError: The model runs without gradients.
        """
        if not torch.is_grad_enabled():
            raise UsageError(
                "gradients=True needs the graph of the forward: call the model outside torch.no_grad()"
            )
        given = self.given.map(Tensor.clone)
        return dataclasses.replace(self, given=given, output=self.output.clone(), gradients=True)

    def copied(self) -> "MixerCall":
        """Return a detached copy with its own tensors: the model may overwrite the originals later."""
        given = self.given.map(lambda tensor: tensor.detach().clone())
        return dataclasses.replace(self, given=given, output=self.output.detach().clone())


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The current dtype of autocast on `device`, or None if autocast is off."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def weights_device(site: MixerSite) -> torch.device:
    """The device of a module's weights. accelerate moves the input there only inside the forward.

    Raises:
        UsageError: The weights are offloaded, or on several devices.
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


def call_device(site: MixerSite, output: Tensor) -> torch.device:
    """The device for recomputing a call: that of the weights, or of the output if no weights are read."""
    return weights_device(site) if site.adapter.needs_weights(site.module) else output.device


def logits_of(output: Any) -> Float[Tensor, "batch token vocabulary"]:
    """The logits in a language model's output: a tensor, a tuple, or an object with `logits`."""
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]


def without_cache(model: nn.Module) -> dict[str, bool]:
    """Return the arguments that keep a transformers model from filling a cache that nobody reads."""
    parameters = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in parameters else {}


def padding_mask(model: nn.Module, real: Bool[Tensor, "prompt token"]) -> dict[str, Tensor]:
    """Return the mask argument for a model that looks ahead; {} if there is no padding, or it takes no mask."""
    parameters = inspect.signature(model.forward).parameters
    if bool(real.all()) or "attention_mask" not in parameters:
        return {}
    adapters = filter(None, map(adapter_of, model.modules()))
    if not any(adapter.looks_ahead for adapter in adapters):
        return {}
    return {"attention_mask": real.to(next(model.parameters()).device, torch.long)}


def hooks_inside(module: nn.Module) -> set[tuple[str, int]]:
    """The hooks on the module's layers, as (layer, number of the hook): shows later which were removed."""
    return {
        (name, number)
        for name, layer in module.named_modules()
        if name
        for number in (*layer._forward_hooks, *layer._forward_pre_hooks)
    }


def _precision(device: torch.device, autocast: torch.dtype | None) -> Any:
    return nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast)
