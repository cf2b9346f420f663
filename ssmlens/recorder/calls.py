"""What a mixer was given and gave in one call, and what can be computed from that."""

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
        site: Which mixer; of several blocks that share one, the block that ran.
        given: Its input, on the device of its weights.
        output: What it really put out, on the device of its weights.
        autocast: The dtype autocast computed with, or None.
        gradients: Whether what is computed from the call is differentiable; its input and output then keep their graph.
        number: How many calls of the block's module came before it in the same forward: 0 in nearly every model.
    """

    site: MixerSite
    given: MixerInput
    output: Float[Tensor, "batch token d_model"]
    autocast: torch.dtype | None = None
    gradients: bool = False
    number: int = 0

    def operands(self) -> Operator:
        """The operands the mixer's scan got, recomputed from its input and its weights as they are now."""
        with torch.set_grad_enabled(self.gradients), self.precision():
            return self.site.adapter.project(self.site.module, self.given)

    def precision(self) -> Any:
        """A context that computes in the precision of the call."""
        return _precision(self.output.device, self.autocast)

    def with_gradients(self) -> "MixerCall":
        """The call with its own tensors, whose operands are differentiable: back to weights and embeddings.

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
        """The call with its own tensors, without autograd graph: a model may go on to write into what it handed on."""
        given = self.given.map(lambda tensor: tensor.detach().clone())
        return dataclasses.replace(self, given=given, output=self.output.detach().clone())


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes in on `device` right now, or None where it is off."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def weights_device(site: MixerSite) -> torch.device:
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


def call_device(site: MixerSite, output: Tensor) -> torch.device:
    """Where a call is computed again: with the module's weights, or, where none are read, with its output."""
    return weights_device(site) if site.adapter.needs_weights(site.module) else output.device


def logits_of(output: Any) -> Float[Tensor, "batch token vocabulary"]:
    """The logits in what a language model puts out: a tensor, a tuple, or something that has them."""
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]


def without_cache(model: nn.Module) -> dict[str, bool]:
    """What keeps a transformers model from filling a cache that nobody reads."""
    takes = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in takes else {}


def padding_mask(model: nn.Module, real: Bool[Tensor, "prompt token"]) -> dict[str, Tensor]:
    """What tells a model that looks ahead which tokens are padding: {} where none is, or it takes no mask."""
    takes = inspect.signature(model.forward).parameters
    if bool(real.all()) or "attention_mask" not in takes:
        return {}
    found = filter(None, map(adapter_of, model.modules()))
    if not any(adapter.looks_ahead for adapter in found):
        return {}
    return {"attention_mask": real.to(next(model.parameters()).device, torch.long)}


def hooks_inside(module: nn.Module) -> set[tuple[str, int]]:
    """What tells whether hooks on the module's layers were taken off: where each stands, and its number."""
    return {
        (name, number)
        for name, layer in module.named_modules()
        if name
        for number in (*layer._forward_hooks, *layer._forward_pre_hooks)
    }


def _precision(device: torch.device, autocast: torch.dtype | None) -> Any:
    return nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast)
