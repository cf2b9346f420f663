"""The part of a config for the training loop: steps, batch, seed, precision."""

import dataclasses
from typing import Literal

from ssmlens.errors import UsageError
from ssmlens.options import option

_SEEDS = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The training loop.

    Attributes:
        seed: Seed of weights and data.
        steps: Training steps.
        batch: Rows per training batch.
        precision: bf16: autocast of the forward pass; weights stay in float32.
    """

    seed: int = option(0, least=0)
    steps: int = option(2000, least=1)
    batch: int = option(64, least=1)
    precision: Literal["fp32", "bf16"] = "fp32"


def check_training(options: TrainingOptions) -> None:
    """Raise UsageError if the seed has too many bits."""
    if options.seed >= _SEEDS:
        raise UsageError(f"`seed` is below 2^31, not {options.seed}")
