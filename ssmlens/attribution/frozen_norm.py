"""A norm at one token as the affine map that it is once its scale is frozen there."""

import dataclasses

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class FrozenNorm:
    """y = scale ⊙ x + bias, or y = scale ⊙ (x − mean of x) + bias.

    Attributes:
        scale: The norm's weight over the root mean square (or the standard deviation) of this input.
        centred: Whether the mean is taken away, as in a LayerNorm.
        bias: What is added, or None.
    """

    scale: Float64[Tensor, " d_model"]
    centred: bool
    bias: Float64[Tensor, " d_model"] | None

    def linear(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """The map without its bias. Differentiable."""
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        return centred * self.scale.to(x.dtype)

    def pull_back(self, reach: Float64[Tensor, " d_model"]) -> Float64[Tensor, " d_model"]:
        """What a unit of each entry of x adds to reach · y."""
        scaled = reach * self.scale
        return scaled - scaled.mean() if self.centred else scaled


def freeze_norm(
    norm: nn.Module, x: Float[Tensor, " d_model"], y: Float[Tensor, " d_model"]
) -> FrozenNorm | None:
    """The map that this norm was for one token, from what it was given and put out.

    The scale is one number times the norm's weight, or times 1 + the weight (Gemma, Qwen). The number is measured.

    Args:
        norm: An RMS norm or a LayerNorm of any library.
        x: Its input at the token.
        y: Its output there.

    Returns:
        The map, or None: no such map makes y of x.
    """
    tolerance = 1e-4 if y.dtype in (torch.float32, torch.float64) else 3e-2
    x, y = x.detach().double(), y.detach().double()
    weight, bias = (_vector(norm, name, x) for name in ("weight", "bias"))
    centred = isinstance(norm, nn.LayerNorm)
    wanted = y if bias is None else y - bias
    given = x - x.mean() if centred else x
    for scale in (torch.ones_like(x),) if weight is None else (weight, 1 + weight):
        unit = given * scale
        factor = (unit @ wanted) / (unit @ unit).clamp(min=torch.finfo(unit.dtype).tiny)
        if (factor * unit - wanted).norm() <= tolerance * wanted.norm():
            return FrozenNorm(factor * scale, centred, bias)
    return None


def _vector(norm: nn.Module, name: str, like: Tensor) -> Tensor | None:
    value = getattr(norm, name, None)
    return value.detach().to(like) if isinstance(value, Tensor) else None
