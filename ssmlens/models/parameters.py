"""Parameters that the mixers share, initialised as in mamba_ssm."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.errors import UsageError

Number = float | int
Range = tuple[Number, Number] | list[Number]  # a list in a config.json


def depthwise(channels: int, taps: int, bias: bool, factory: dict) -> nn.Conv1d:
    """A causal depthwise convolution; callers cut off the outputs past the last token."""
    return nn.Conv1d(
        channels, channels, taps, groups=channels, padding=taps - 1, bias=bias, **factory
    )


def step_projection(
    rank: int,
    channels: int,
    factory: dict,
    draw: str = "random",
    scale: Number = 1.0,
    steps: tuple[Number, Number] = (0.001, 0.1),
    floor: Number = 1e-4,
) -> nn.Linear:
    """Mamba-1's dt_proj: weights U(±scale/√rank), or scale/√rank ("constant"); biases of `draw_dt_bias`.

    Raises:
        UsageError: `draw`, the mixer's dt_init, is neither "random" nor "constant".
    """
    projection = nn.Linear(rank, channels, bias=True, **factory)
    bound = rank**-0.5 * scale
    if draw == "constant":
        nn.init.constant_(projection.weight, bound)
    elif draw == "random":
        nn.init.uniform_(projection.weight, -bound, bound)
    else:
        raise UsageError(f"dt_init must be 'random' or 'constant', not {draw!r}")
    with torch.no_grad():
        projection.bias.copy_(draw_dt_bias(channels, *steps, floor, factory))
    return projection


def draw_dt_bias(
    count: int, dt_min: Number, dt_max: Number, floor: Number, factory: dict
) -> Float[Tensor, "count"]:
    """Draw biases whose softplus is log-uniform in [dt_min, dt_max], and at least `floor`."""
    low, high = math.log(dt_min), math.log(dt_max)
    step = torch.exp(torch.rand(count, **factory) * (high - low) + low).clamp(min=floor)
    return step + torch.log(-torch.expm1(-step))
