"""Trackers that log a run in addition to metrics.jsonl; each library is imported only when it is used."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ssmlens.errors import UsageError
from ssmlens.training.config import TrainConfig

TRACKERS = ("trackio", "wandb", "tensorboard")


class Tracker(AbstractContextManager, ABC):
    """Another log of what a run measures; it is closed at the end of the `with` block."""

    def log(self, step: int, split: str, length: int | None, values: dict[str, float]) -> None:
        """Log values under names such as "train/loss" and "eval/char/40"."""
        place = "" if length is None else f"/{length}"
        self.send(step, {f"{split}/{name}{place}": value for name, value in values.items()})

    @abstractmethod
    def send(self, step: int, named: dict[str, float]) -> None:
        """Log these numbers."""


class _Project(Tracker):
    """A run of wandb, or of trackio, which has the same interface."""

    def __init__(self, library: Any, out: Path, config: TrainConfig):
        self._run = library.init(project="ssmlens", name=out.name, config=config.to_dict())

    def send(self, step: int, named: dict[str, float]) -> None:
        self._run.log(named, step=step)

    def __exit__(self, *error: object) -> None:
        self._run.finish()


class _Board(Tracker):
    def __init__(self, library: Any, out: Path, config: TrainConfig):
        self._writer = library.SummaryWriter(out / "tensorboard")

    def send(self, step: int, named: dict[str, float]) -> None:
        for name, value in named.items():
            self._writer.add_scalar(name, value, step)

    def __exit__(self, *error: object) -> None:
        self._writer.close()


def find_tracker(name: str) -> Callable[[Path, TrainConfig], Tracker]:
    """Return a function that starts the tracker of this name from a run's folder and config.

    Raises:
        UsageError: The name is unknown, or its library is not installed.
    """
    if name not in TRACKERS:
        raise UsageError(f"`trackers` {name!r} is unknown; choose from: {', '.join(TRACKERS)}")
    board = name == "tensorboard"
    try:
        library = import_module("torch.utils.tensorboard" if board else name)
    except ImportError:
        raise UsageError(f"`trackers` {name}: pip install {name}") from None
    return partial(_Board if board else _Project, library)
