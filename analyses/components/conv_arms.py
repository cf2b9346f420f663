"""The runs that split the effect of Mamba-2's identity convolution. MAMBA2_CONV.md gives the reasons."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.components.arms import MODELS, SEEDS
from ssmlens.inits.mimetic import COMPONENTS
from ssmlens.training.config import TrainConfig

RATES = (1e-3, 3e-3, 1e-2)
LENGTHS = (50, 100, 150, 300)

_A, _CONV = {"components": ("A",)}, {"components": ("A", "conv")}
ARMS: Mapping[str, Mapping[str, Any]] = {
    # Packed rows take longest, so they start first.
    "A packed": {**_A, "packing": True},
    "A+conv packed": {**_CONV, "packing": True},
    "A": _A,
    "A+conv": _CONV,
    "taps": {**_CONV, "keep_conv_bias": True},
    "bias": {**_CONV, "keep_conv_taps": True},
    "B,C": {**_CONV, "conv_scope": "bc"},
    "x": {**_CONV, "conv_scope": "x"},
    "layer 0": {**_CONV, "conv_layers": (0,)},
    "layers 1-3": {**_CONV, "conv_layers": (1, 2, 3)},
    "A+BC": {"components": ("A", "BC")},
    "A+BC+conv": {"components": ("A", "BC", "conv")},
    "paper": {"components": COMPONENTS},
}
"""The fields of a config in which an arm differs from the others, by its name."""

BASES = {
    **{arm: "A" for arm, fields in ARMS.items() if arm != "A" and "packing" not in fields},
    **{"A+BC+conv": "A+BC", "A+conv packed": "A packed"},
}
"""The base with which an arm is compared. Other arms are not compared."""

QUESTIONS = (("taps", "bias"), ("B,C", "x"), ("layer 0", "layers 1-3"))
"""Pairs of arms that are the two halves of A+conv."""


def configs(
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = range(SEEDS),
    steps: int | None = None,
) -> list[TrainConfig]:
    """List every run, one seed's full grid before the next."""
    model = MODELS["mamba2"]
    base = dataclasses.replace(
        model, init="mimetic", eval_lengths=LENGTHS, steps=steps or model.steps
    )
    return [
        dataclasses.replace(base, arm=arm, seed=seed, learning_rate=rate, **fields)
        for seed in seeds
        for arm, fields in ARMS.items()
        for rate in rates
    ]
