"""A training run of a second."""

import dataclasses

import pytest

from ssmlens.training.config import TrainConfig


@pytest.fixture(scope="session")
def tiny():
    """tiny(steps=…): a config of a model that trains in no time, with the fields given."""
    base = TrainConfig(
        length=4,
        min_length=2,
        letters=5,
        d_model=16,
        n_layer=1,
        d_state=8,
        headdim=8,
        steps=20,
        batch=8,
        warmup=5,
        eval_every=10,
        eval_count=16,
        learning_rate=1e-2,
    )

    def make(**fields):
        return dataclasses.replace(base, **fields)

    return make
