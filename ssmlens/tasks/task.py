"""What a task makes, and the registry of tasks."""

import dataclasses
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.registry import Registry

# Positions in a target that must look at nothing in particular.
NO_TARGET = -1


@dataclasses.dataclass(frozen=True)
class TaskBatch:
    """Token sequences of equal length, and where each query must look.

    Attributes:
        tokens: Token ids.
        target: Position that holds what the model must say next after each query; NO_TARGET for none.
    """

    tokens: Int[Tensor, "example token"]
    target: Int[Tensor, "example token"]


@runtime_checkable
class Task(Protocol):
    """A task: a frozen dataclass whose fields are its options."""

    def build(self, seed: int = 0) -> TaskBatch:
        """The examples of this seed, the same on every machine."""
        ...


def generator(seed: int) -> torch.Generator:
    """The random numbers of this seed. Raises UsageError for a seed beyond 64 bits."""
    if not -(2**63) <= seed < 2**64:
        raise UsageError(f"seed {seed} is out of range: it must fit into 64 bits")
    return torch.Generator().manual_seed(seed)


tasks: Registry[type[Task]] = Registry("task", "ssmlens.tasks")
