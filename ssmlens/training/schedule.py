"""The learning rate over a run."""

import math

from ssmlens.training.config import TrainConfig


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of step 0 .. steps − 1: up to the highest over `warmup` steps, then down towards 0.

    linear: in proportion to the steps that are left; cosine: by half a cosine.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    left = (config.steps - step) / max(1, config.steps - config.warmup)
    fall = left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return config.learning_rate * fall
