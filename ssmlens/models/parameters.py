"""Parameters that the mixers have in common, drawn as mamba_ssm draws them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

Number = float | int
Range = tuple[Number, Number] | list[Number]  # a list in a config.json


def depthwise(channels: int, taps: int, bias: bool, made: dict) -> nn.Conv1d:
    """A causal convolution of each channel by itself; what lies past the last token is cut off by its reader."""
    return nn.Conv1d(channels, channels, taps, groups=channels, padding=taps - 1, bias=bias, **made)


def step_projection(rank: int, channels: int, made: dict) -> nn.Linear:
    """Mamba-1's dt_proj as it is drawn by default: weights U(±1/√rank), steps log-uniform in [.001, .1]."""
    projection = nn.Linear(rank, channels, bias=True, **made)
    nn.init.uniform_(projection.weight, -(rank**-0.5), rank**-0.5)
    with torch.no_grad():
        projection.bias.copy_(draw_dt_bias(channels, 0.001, 0.1, 1e-4, made))
    return projection


def draw_dt_bias(
    count: int, dt_min: Number, dt_max: Number, floor: Number, made: dict
) -> Float[Tensor, "count"]:
    """Biases whose softplus is log-uniform in [dt_min, dt_max], and at least `floor`."""
    low, high = math.log(dt_min), math.log(dt_max)
    step = torch.exp(torch.rand(count, **made) * (high - low) + low).clamp(min=floor)
    return step + torch.log(-torch.expm1(-step))
