"""The interface of a task, and the registry of tasks."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.options import option
from ssmlens.registry import Registry
from ssmlens.tasks.draws import Draws, Seed
from ssmlens.tasks.rows import NO_LABEL, NO_TARGET, Examples, TaskBatch, pack

__all__ = ["NO_LABEL", "NO_TARGET", "Task", "TaskBatch", "tasks"]


@dataclasses.dataclass(frozen=True)
class Task(ABC):
    """A task: a frozen dataclass whose fields are its options, and `build`, which draws its rows.

    Attributes:
        length: Largest length (letters of a string, or pairs).
        count: Number of rows.
        min_length: Lengths are drawn uniformly from here to `length`, both included; None: all are `length`.
        packing: Fill each row with one example after another, instead of one example; None: the layout decides.
        context: Tokens of a packed row.
    """

    length: int = 40
    count: int = option(4, name="batch")
    min_length: int | None = None
    packing: bool | None = None
    context: int = 220

    least_length: ClassVar[int] = 1
    exam_lengths: ClassVar[tuple[int, ...] | None] = None
    """Default lengths to measure accuracy at; None: the training length and twice that."""

    def __post_init__(self):
        self._require(self.count >= 1, "`count`", "of at least 1", self.count)
        least = self.least_length
        self._require(self.length >= least, "`length`", f"of at least {least}", self.length)
        if self.min_length is not None:
            bounds = f"in {least}..{self.length} (`length`)"
            within = least <= self.min_length <= self.length
            self._require(within, "`min_length`", bounds, self.min_length)
        if self.packs:
            row = self.row_tokens(self.length)
            need = f"of at least {row}, the tokens of its longest example"
            self._require(self.context >= row, "`context`", need, self.context)

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids that a model of this task needs."""

    @property
    def token_strings(self) -> list[str] | None:
        """Name of each token id, one character if it can be typed; None if the tokens have no names."""
        return None

    @abstractmethod
    def row_tokens(self, length: int) -> int:
        """Return the largest number of tokens of an example of this length."""

    @abstractmethod
    def examples(self, draws: Draws, length: Int[Tensor, "example"]) -> Examples:
        """Draw examples of these lengths, one per row of `row_tokens(self.length)` tokens."""

    def build(self, seed: Seed = 0, device: torch.device | str = "cpu") -> TaskBatch:
        """Build the rows of this seed, the same on every device; see `draws.batch_seed` for distinct seeds.

        Reads nothing back from the device, so that a CUDA graph can record it, unless the rows are packed.

        Raises:
            UsageError: The seed does not fit into 64 bits.
        """
        draws = Draws(seed, device)
        if not self.packs:
            return self.examples(draws, self._lengths(draws, self.count)).batch
        share = -(-self.context // self.least_row_tokens(self.shortest))
        length = self._lengths(draws, self.count * share).view(self.count, share)
        # As many examples as can start within a row, even if all are short.
        sizes = range(self.shortest, self.length + 1)
        least = length.new_tensor([self.least_row_tokens(n) for n in sizes])[length - self.shortest]
        begun = int((least.cumsum(1) - least < self.context).sum(1).max())
        examples = self.examples(draws, length[:, :begun].flatten())
        return pack(examples, self.count, self.context)

    def prepare(self, device: torch.device) -> None:  # noqa: B027, most need nothing
        """Move the data that rows are drawn from to a device; raise UsageError if it is not available."""

    def measure_more(
        self, model: Callable[[Tensor], Any], seed: Seed, device: torch.device
    ) -> dict[str, float]:
        """Return the task's own measures in an exam, in addition to `metrics.measure`: none by default.

        Args:
            model: From token ids to logits, in eval mode.
            seed: Seed of the exam.
            device: Device of the model.
        """
        return {}

    def at_length(self, length: int) -> "Task":
        """Return the task with all examples of this length, one per row, to measure accuracy on."""
        return dataclasses.replace(self, length=length, min_length=None, packing=False)

    @property
    def packs(self) -> bool:
        """Whether a row is packed with examples."""
        return bool(self.packing)

    @property
    def width(self) -> int:
        """Tokens of a row."""
        return self.context if self.packs else self.row_tokens(self.length)

    def least_row_tokens(self, length: int) -> int:
        """Return the smallest number of tokens of an example of this length."""
        return self.row_tokens(length)

    @property
    def shortest(self) -> int:
        """The smallest length that is drawn."""
        return self.length if self.min_length is None else self.min_length

    def _lengths(self, draws: Draws, count: int) -> Int[Tensor, "{count}"]:
        return self.shortest + draws.integers(self.length - self.shortest + 1, (count,))

    def _require(self, met: bool, option: str, requirement: str, value: object) -> None:
        if not met:
            name = type(self).__name__.lower()
            raise UsageError(f"the {name} task needs {option} {requirement}, not {value!r}")


tasks: Registry[type[Task]] = Registry("task", "ssmlens.tasks")
