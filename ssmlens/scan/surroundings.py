"""The surroundings of the scan in its mixer: the convolution before it, and the gate and norm after it."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Signals(Protocol):
    """Values from which a family derives several operands, so that an edit of one must change them all (Mamba-3)."""

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the values that can be edited."""
        ...

    def quantity(self, name: str) -> tuple[Tensor, tuple[str, ...]]:
        """One of them, with its axes."""
        ...

    def with_quantity(self, name: str, value: Tensor) -> Any:
        """The operands, derived again with another value of this quantity."""
        ...


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a channel passes before and after the scan, apart from the operands of the scan (`ScanOperands`).

    x = activation(conv(u) + conv_bias) and y = scan(x) + D x. Then, with z the gate, the mixer computes
    norm(y · SiLU(z)), or norm(y) · SiLU(z) with `norm_before_gate`, or y · SiLU(z) without a norm. Some families use
    another `gate_activation` than SiLU.

    The tensors are references to those that the mixer computed; nothing is copied. Channels are the d_ssm channels of
    the scan, head after head.

    Attributes:
        u: The scan's input before the convolution. None if there is no convolution (Mamba-3).
        conv_weight: Taps of the convolution; the last one is that of the token itself.
        conv_bias: Its bias, or None.
        norm_weight: Weight of the RMS norm. None if there is no norm.
        norm_eps: The number that the norm adds to the mean square.
        norm_groups: Number of equal parts of the channels, in order, each with its own root mean square.
        norm_before_gate: Whether the gate comes after the norm.
        gate_activation: Activation of the gate.
        signals: The values from which the operands are derived. None if each can be edited by itself.
    """

    u: Float[Tensor, "batch token channel"] | None = None
    conv_weight: Float[Tensor, "channel tap"] | None = None
    conv_bias: Float[Tensor, "channel"] | None = None
    norm_weight: Float[Tensor, "channel"] | None = None
    norm_eps: float = 1e-5
    norm_groups: int = 1
    norm_before_gate: bool = False
    gate_activation: Callable[[Tensor], Tensor] = F.silu
    signals: Signals | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Surroundings":
        """Apply `function` to every tensor; drop `signals`."""
        tensors = {
            f.name: function(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **tensors, signals=None)

    def sequence(self, index: int, length: int | None = None) -> "Surroundings":
        """One sequence of the batch (a batch of one), cut to its first `length` tokens; drop `signals`."""
        u = None if self.u is None else self.u[index : index + 1, :length]
        return dataclasses.replace(self, u=u, signals=None)
