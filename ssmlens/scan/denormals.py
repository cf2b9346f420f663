"""Numbers too small to count, which a CPU is slow with."""

import math

import torch
from torch import Tensor
from torch.nn.functional import hardshrink


def drop_tiny(x: Tensor) -> Tensor:
    """0 where the product of two such numbers would be denormal: under 1e-19 in float32, 1e-154 in float64.

    Products of decays get there soon, and a CPU takes a hundred cycles for one denormal result.
    """
    return hardshrink(x, torch.finfo(x.dtype).tiny ** 0.5)


def drop_tiny_(x: Tensor) -> None:
    """The same in place, which saves a pass through memory where no gradient is wanted."""
    if torch.is_grad_enabled() and x.requires_grad:
        x *= x.abs() > torch.finfo(x.dtype).tiny ** 0.5  # a NaN stays one
    else:
        torch.hardshrink(x, torch.finfo(x.dtype).tiny ** 0.5, out=x)


def smallest_log_decay(dtype: torch.dtype) -> float:
    """The log of the smallest decay that `drop_tiny` keeps."""
    return math.log(torch.finfo(dtype).tiny) / 2
