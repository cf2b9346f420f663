"""Set numbers to 0 that are too small to matter: a CPU computes slowly with denormal results."""

import math

import torch
from torch import Tensor
from torch.nn.functional import hardshrink


def drop_tiny(x: Tensor) -> Tensor:
    """Set numbers to 0 if the product of two such numbers is denormal: below 1e-19 in float32, 1e-154 in float64.

    Products of decays soon reach that range, and a CPU takes about a hundred cycles for one denormal result.
    """
    return hardshrink(x, torch.finfo(x.dtype).tiny ** 0.5)


def drop_tiny_(x: Tensor) -> None:
    """`drop_tiny` in place. Without gradients that saves a pass through memory."""
    if torch.is_grad_enabled() and x.requires_grad:
        x *= x.abs() > torch.finfo(x.dtype).tiny ** 0.5  # a NaN stays NaN
    else:
        torch.hardshrink(x, torch.finfo(x.dtype).tiny ** 0.5, out=x)


def smallest_log_decay(dtype: torch.dtype) -> float:
    """The log of the smallest decay that `drop_tiny` keeps."""
    return math.log(torch.finfo(dtype).tiny) / 2
