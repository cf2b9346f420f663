"""Parameters that the mixers have in common, drawn as mamba_ssm draws them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.errors import UsageError

Number = float | int
Range = tuple[Number, Number] | list[Number]  # a list in a config.json


def depthwise(channels: int, taps: int, bias: bool, made: dict) -> nn.Conv1d:
    """A causal convolution of each channel by itself; what lies past the last token is cut off by its reader."""
    return nn.Conv1d(channels, channels, taps, groups=channels, padding=taps - 1, bias=bias, **made)


def step_projection(
    rank: int,
    channels: int,
    made: dict,
    draw: str = "random",
    scale: Number = 1.0,
    steps: tuple[Number, Number] = (0.001, 0.1),
    floor: Number = 1e-4,
) -> nn.Linear:
    """Mamba-1's dt_proj: weights U(±scale/√rank), or that bound ("constant"); biases of `draw_dt_bias`.

    Raises:
        UsageError: `draw`, the mixer's dt_init, is neither "random" nor "constant".
    """
    projection = nn.Linear(rank, channels, bias=True, **made)
    bound = rank**-0.5 * scale
    if draw == "constant":
        nn.init.constant_(projection.weight, bound)
    elif draw == "random":
        nn.init.uniform_(projection.weight, -bound, bound)
    else:
        raise UsageError(f"dt_init is 'random' or 'constant', not {draw!r}")
    with torch.no_grad():
        projection.bias.copy_(draw_dt_bias(channels, *steps, floor, made))
    return projection


def draw_dt_bias(
    count: int, dt_min: Number, dt_max: Number, floor: Number, made: dict
) -> Float[Tensor, "count"]:
    """Biases whose softplus is log-uniform in [dt_min, dt_max], and at least `floor`."""
    low, high = math.log(dt_min), math.log(dt_max)
    step = torch.exp(torch.rand(count, **made) * (high - low) + low).clamp(min=floor)
    return step + torch.log(-torch.expm1(-step))
