"""A norm at one token as an affine map, with its scale frozen there."""

import dataclasses

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class FrozenNorm:
    """y = scale ⊙ x + bias, or y = scale ⊙ (x − mean of x) + bias.

    Attributes:
        scale: The norm's weight over the root mean square (or the standard deviation) of this input.
        centred: Whether the mean is subtracted, as in a LayerNorm.
        bias: The norm's bias, or None.
    """

    scale: Float64[Tensor, " d_model"]
    centred: bool
    bias: Float64[Tensor, " d_model"] | None

    def linear(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """The map without its bias. Differentiable."""
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        return centred * self.scale.to(x.dtype)

    def pull_back(self, reach: Float64[Tensor, " d_model"]) -> Float64[Tensor, " d_model"]:
        """The gradient of reach · y with respect to x."""
        scaled = reach * self.scale
        return scaled - scaled.mean() if self.centred else scaled


def freeze_norm(
    norm: nn.Module, x: Float[Tensor, " d_model"], y: Float[Tensor, " d_model"]
) -> FrozenNorm | None:
    """Fit the affine map of a norm at one token, from its input and output.

    The scale is one number times the norm's weight, or times 1 + the weight (Gemma, Qwen). The number is fitted.

    Args:
        norm: An RMS norm or a LayerNorm of any library.
        x: Its input at the token.
        y: Its output there.

    Returns:
        The map, or None if no such map turns x into y.
    """
    tolerance = 1e-4 if y.dtype in (torch.float32, torch.float64) else 3e-2
    x, y = x.detach().double(), y.detach().double()
    weight, bias = (_vector(norm, name, x) for name in ("weight", "bias"))
    centred = isinstance(norm, nn.LayerNorm)
    expected = y if bias is None else y - bias
    source = x - x.mean() if centred else x
    for scale in (torch.ones_like(x),) if weight is None else (weight, 1 + weight):
        unit = source * scale
        factor = (unit @ expected) / (unit @ unit).clamp(min=torch.finfo(unit.dtype).tiny)
        if (factor * unit - expected).norm() <= tolerance * expected.norm():
            return FrozenNorm(factor * scale, centred, bias)
    return None


def _vector(norm: nn.Module, name: str, like: Tensor) -> Tensor | None:
    value = getattr(norm, name, None)
    return value.detach().to(like) if isinstance(value, Tensor) else None
