"""What surrounds the scan in its block: the convolution before it, the norm beside the gate after it."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Signals(Protocol):
    """What a family derives its operands from, where changing one alone would leave others stale (Mamba-3)."""

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of what can be edited."""
        ...

    def quantity(self, name: str) -> tuple[Tensor, tuple[str, ...]]:
        """One of them, with its axes."""
        ...

    def with_quantity(self, name: str, value: Tensor) -> Any:
        """The operands derived from another value of it."""
        ...


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a channel passes on its way to the scan and after it, beside what the scan itself reads (`ScanOperands`).

    x = activation(conv(u) + conv_bias), y = scan(x) + D x, and then, z being the gate,
    norm(y · SiLU(z)), or norm(y) · SiLU(z) with `norm_before_gate`, or y · SiLU(z) without a norm. Some families have
    another `gate_activation` than SiLU.

    References to what the mixer computed anyway: nothing is copied. Channels are those of the scan, d_ssm of them,
    head after head.

    Attributes:
        u: Channels of the scan's input before their convolution. None where there is no convolution (Mamba-3).
        conv_weight: Taps of the convolution; the last one is that of the token itself.
        conv_bias: Its bias, or None.
        norm_weight: Weight of the RMS norm. None where nothing is normalised.
        norm_eps: What the norm adds to the mean square.
        norm_groups: Equal parts of the channels, in order, each normalised by itself.
        norm_before_gate: Whether the gate comes after the norm.
        gate_activation: What the gate's branch passes before it multiplies.
        signals: What the operands were derived from. None where each stands for itself.
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
        """The same with `function` applied to every tensor; without `signals`."""
        tensors = {
            f.name: function(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **tensors, signals=None)

    def sequence(self, index: int, length: int | None = None) -> "Surroundings":
        """That of one sequence of the batch (a batch of one), cut to its first `length` tokens; without `signals`."""
        u = None if self.u is None else self.u[index : index + 1, :length]
        return dataclasses.replace(self, u=u, signals=None)
