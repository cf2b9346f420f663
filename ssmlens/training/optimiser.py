"""AdamW and its learning-rate schedule: the part of a config for the optimiser."""

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import nn

from ssmlens.errors import UsageError
from ssmlens.options import option

Number = float | int
# Parameters of a mixer that are not matrices of a product.
_SSM = ("A_log", "D", "dt_bias")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimiserOptions:
    """The optimiser: AdamW with a warm-up.

    Attributes:
        learning_rate: Highest learning rate of AdamW.
        warmup: Steps over which the learning rate rises to its highest value.
        schedule: Shape of the fall of the learning rate after the warm-up, to `final_rate` at the last step.
        final_rate: Learning rate at the last step, as a share of the highest.
        beta2: Decay of AdamW's mean of squared gradients; language models use .95.
        clip: Largest norm of the gradient; 0 for no limit.
        weight_decay: Weight decay of matrices.
        decay_ssm: Also decay A_log, D, dt_bias, biases and norms.
    """

    learning_rate: Number = 1e-3
    warmup: int = option(100, least=0)
    schedule: Literal["linear", "cosine"] = "linear"
    final_rate: Number = option(0.0, least=0)
    beta2: Number = option(0.999, least=0)
    clip: Number = option(1.0, least=0)
    weight_decay: Number = option(0.1, least=0)
    decay_ssm: bool = False


def check_optimiser(options: OptimiserOptions) -> None:
    """Raise UsageError if the learning rate is not positive, or a share is not below 1."""
    for name in ("final_rate", "beta2"):
        if not getattr(options, name) < 1:
            raise UsageError(f"`{name}` is below 1, not {getattr(options, name):g}")
    if not 0 < options.learning_rate < float("inf"):
        raise UsageError(f"`learning_rate` is positive, not {options.learning_rate:g}")


def make_optimizer(
    options: OptimiserOptions, model: nn.Module, *, on_gpu: bool
) -> torch.optim.Optimizer:
    """Build AdamW over the model's parameters, in two groups: with and without weight decay."""
    decayed, undecayed = [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and not name.endswith(_SSM)
        (decayed if matrix or options.decay_ssm else undecayed).append(parameter)
    pairs = [(decayed, options.weight_decay), (undecayed, 0.0)]
    groups: list[dict[str, Any]] = [
        {"params": params, "weight_decay": decay} for params, decay in pairs if params
    ]
    betas = (0.9, float(options.beta2))
    return torch.optim.AdamW(groups, betas=betas, fused=on_gpu or None, capturable=on_gpu)


def clip_gradient(options: OptimiserOptions, model: nn.Module) -> None:
    """Scale the gradient down to the largest norm allowed, if any."""
    if options.clip:
        nn.utils.clip_grad_norm_(model.parameters(), options.clip)


def rate_at(step: int, steps: int, options: OptimiserOptions) -> float:
    """Return the learning rate of step 0 .. steps − 1: it rises over `warmup` steps, then falls to `final_rate`.

    linear: in proportion to the remaining steps; cosine: along half a cosine.
    """
    if step < options.warmup:
        return options.learning_rate * (step + 1) / options.warmup
    left = (steps - step) / max(1, steps - options.warmup)
    fall = left if options.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return options.learning_rate * (options.final_rate + (1 - options.final_rate) * fall)
