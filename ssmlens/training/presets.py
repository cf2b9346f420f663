"""Ready-made experiments: a few configs side by side, and what to make of them."""

import dataclasses

from ssmlens.errors import UsageError
from ssmlens.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Preset:
    """Runs to compare.

    Attributes:
        configs: What is trained, one after another.
        note: What a reader must know of the comparison.
    """

    configs: tuple[TrainConfig, ...]
    note: str


_COPY = TrainConfig(
    length=20,
    min_length=5,
    d_state=32,
    headdim=32,
    batch=16,
    steps=2000,
    learning_rate=3e-3,
    eval_every=100,
    eval_count=64,
)

PRESETS = {
    "copy-in-a-minute": Preset(
        (_COPY, dataclasses.replace(_COPY, init="mimetic")),
        "the learning rate decides what this shows",
    )
}


def find_preset(name: str) -> Preset:
    """The preset of this name. Raises UsageError where there is none."""
    if name not in PRESETS:
        raise UsageError(f"--preset {name!r} is unknown; choose from: {', '.join(PRESETS)}")
    return PRESETS[name]
