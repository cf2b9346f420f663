"""The runs: every combination of the four components, over seeds and learning rates."""

import dataclasses
import itertools
from collections.abc import Sequence

from ssmlens.inits.mimetic import COMPONENTS
from ssmlens.training.config import TrainConfig

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = 5

_MAMBA2 = TrainConfig(
    task="copy",
    length=50,
    min_length=5,
    mixer="Mamba2",
    d_model=256,
    n_layer=4,
    d_state=128,
    headdim=64,
    steps=1500,
    precision="bf16",
    eval_lengths=(50, 100, 150),
    eval_every=500,
)
MODELS = {
    "mamba2": _MAMBA2,
    "mamba1": dataclasses.replace(_MAMBA2, mixer="Mamba1", d_state=32, headdim=None),
}
"""The paper's states and heads (Mamba-2: 128, of 64 channels; Mamba-1: 32); 256 wide, 4 layers, not 1024 and 24."""


def combinations() -> list[tuple[str, ...]]:
    """The sixteen sets of components, the empty one first."""
    sizes = range(len(COMPONENTS) + 1)
    return [chosen for k in sizes for chosen in itertools.combinations(COMPONENTS, k)]


def configs(
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = range(SEEDS),
    steps: int | None = None,
    generation: str = "mamba2",
) -> list[TrainConfig]:
    """List every run, one seed's full grid before the next: an interrupted experiment can be compared."""
    model = MODELS[generation]
    base = dataclasses.replace(model, steps=steps or model.steps)
    return [
        dataclasses.replace(_start(base, chosen), seed=seed, learning_rate=rate)
        for seed in seeds
        for rate in rates
        for chosen in combinations()
    ]


def _start(base: TrainConfig, components: tuple[str, ...]) -> TrainConfig:
    """Name the initialisation: without any component it is the default."""
    return dataclasses.replace(base, init="mimetic", components=components) if components else base
