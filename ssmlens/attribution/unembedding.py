"""From the residual stream to a logit: the final norm (frozen), the output embedding, its multiplier and soft cap."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ssmlens.adapters.blocks import Block
from ssmlens.adapters.find import is_within
from ssmlens.attribution.frozen_norm import FrozenNorm, freeze_norm
from ssmlens.errors import SsmlensError, UnsupportedModelError

_SOFT_CAPS = ("logits_soft_cap", "final_logit_softcapping", "logits_softcapping")


@dataclasses.dataclass(frozen=True)
class Unembedding:
    """The map from the residual stream at one position to its logits.

    Attributes:
        norm: The final norm, frozen.
        head: The output embedding.
        multiplier: The factor on its output.
        soft_cap: c of a final soft cap c · tanh(logit / c), or None.
        logits: The model's logits before a soft cap.
    """

    norm: FrozenNorm
    head: nn.Linear
    multiplier: float
    soft_cap: float | None
    logits: Float64[Tensor, " vocabulary"]

    def row(self, token: int, against: int | None) -> Float64[Tensor, " d_model"]:
        """The gradient of a token's logit, minus that of `against`, with respect to the output embedding's input."""
        weight = self.head.weight.detach()
        row = weight[token].double()
        return self.multiplier * (row if against is None else row - weight[against].double())

    def biases(self, token: int, against: int | None) -> dict[str, float]:
        """The contributions of the biases of final norm and head, if they have any."""
        biases = {}
        if self.norm.bias is not None:
            biases["final norm bias"] = float(self.row(token, against) @ self.norm.bias)
        if self.head.bias is not None:
            bias = self.head.bias.detach().double()
            added = bias[token] if against is None else bias[token] - bias[against]
            biases["head bias"] = self.multiplier * float(added)
        return biases


def find_head(model: Any) -> nn.Linear:
    """The model's output embedding.

    Raises:
        UnsupportedModelError: It has none.
    """
    get = getattr(model, "get_output_embeddings", lambda: None)
    head = get() or getattr(model, "lm_head", None)
    if not isinstance(head, nn.Linear):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no linear head for logits: attribute splits logits"
        )
    return head


def find_final_norm(model: nn.Module, blocks: list[Block]) -> nn.Module:
    """The norm beside the stack of the model's blocks.

    Raises:
        UnsupportedModelError: There is none, or there are several; the message lists the modules there.
    """
    names = {module: name for name, module in model.named_modules()}
    stack = names[blocks[-1].module].rpartition(".")[0]
    parent = model.get_submodule(stack.rpartition(".")[0])
    beside = [m for name, m in parent.named_children() if not is_within(stack, _under(stack, name))]
    norms = [m for m in beside if type(m).__name__.endswith("Norm")]
    if len(norms) != 1:
        siblings = ", ".join(type(m).__name__ for m in beside)
        raise UnsupportedModelError(
            f"{type(parent).__name__} has no single norm after its blocks that attribute could freeze "
            f"(beside them are {siblings})"
        )
    return norms[0]


def find_unembedding(
    model: Any,
    norm: nn.Module,
    head: nn.Linear,
    stream: Float[Tensor, " d_model"],
    head_input: Float[Tensor, " d_model"],
    raw: Float[Tensor, " vocabulary"],
    logits: Float[Tensor, " vocabulary"],
) -> Unembedding:
    """Find the map from the stream at one position to these logits.

    Args:
        model: The model, for its configuration.
        norm: Its final norm.
        head: Its head.
        stream: The residual stream: the norm's input.
        head_input: The head's input.
        raw: The head's output.
        logits: The model's output.

    Raises:
        SsmlensError: The logits are not finite.
        UnsupportedModelError: No such map gives these logits.
    """
    if not bool(logits.isfinite().all()):
        raise SsmlensError("the logits are not finite at this position: there is nothing to split")
    frozen = freeze_norm(norm, stream, head_input)
    if frozen is None:
        raise UnsupportedModelError(
            f"the input of {type(model).__name__}'s head is not an RMS norm or LayerNorm of its residual stream"
        )
    exact = raw.dtype in (torch.float32, torch.float64)
    raw, logits = raw.detach().double(), logits.detach().double()
    tolerance = (1e-5 if exact else 3e-2) * float(logits.norm())
    power = float(raw @ raw)
    multiplier = float(raw @ logits) / power if power else 1.0
    if float((multiplier * raw - logits).norm()) <= tolerance:
        return Unembedding(frozen, head, multiplier, None, logits)
    for cap in _soft_caps(model):
        if float((cap * torch.tanh(raw / cap) - logits).norm()) <= tolerance:
            return Unembedding(frozen, head, 1.0, cap, raw)
    raise UnsupportedModelError(
        f"{type(model).__name__} does more to the output of its head than multiply or cap it"
    )


def _soft_caps(model: Any) -> list[float]:
    config = getattr(model, "config", None)
    configs = (config, getattr(config, "text_config", None))
    caps = [getattr(c, name, None) for c in configs for name in _SOFT_CAPS]
    return [float(cap) for cap in caps if cap]


def _under(stack: str, child: str) -> str:
    parent = stack.rpartition(".")[0]
    return f"{parent}.{child}" if parent else child
