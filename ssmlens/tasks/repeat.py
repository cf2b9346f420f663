"""Repetition: random tokens, repeated; they show induction in any language model (Olsson et al. 2022)."""

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ssmlens.tasks.draws import Draws
from ssmlens.tasks.rows import Examples, Rows
from ssmlens.tasks.task import Task, tasks

PRINTABLE = range(32, 127)
"""The bytes of printable ASCII characters, for models whose tokens are bytes."""


@tasks.register("repeat")
@dataclasses.dataclass(frozen=True)
class Repeat(Task):
    """Rows `s s` for random sequences s.

        position   0 1 2 3 4 5
        token      b a c b a c
        label      . . . a c .
        target     . . . 1 2 .

    From the second b on, the next token is known: it is the one after the query token's first occurrence. Tokens are
    drawn independently and uniformly, with replacement; `length` counts the tokens before the repetition.

    Attributes:
        vocab_size: Ids are drawn from first_token .. vocab_size − 1.
        first_token: Lowest id drawn.
    """

    length: int = 64
    vocab_size: int = 256  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    first_token: int = 0

    least_length: ClassVar[int] = 2

    def __post_init__(self):
        super().__post_init__()
        least = self.first_token + 2
        enough = f"of at least {least}: two tokens to draw from, after `first_token`"
        self._require(self.vocab_size >= least, "`vocab_size`", enough, self.vocab_size)
        self._require(self.first_token >= 0, "`first_token`", "of at least 0", self.first_token)

    def row_tokens(self, length: int) -> int:
        """See `Task.row_tokens`."""
        return 2 * length

    def examples(self, draws: Draws, length: Int[Tensor, "example"]) -> Examples:
        """See `Task.examples`."""
        drawn = draws.integers(self.vocab_size - self.first_token, (len(length), self.length))
        once = self.first_token + drawn
        rows = Rows(len(length), self.row_tokens(self.length), 0, once.device)
        k = torch.arange(self.length, device=once.device).expand_as(once)
        second = length[:, None] + k
        in_sequence = k < length[:, None]
        rows.write(k, once, in_sequence)
        rows.write(second, once, in_sequence)
        rows.ask(second - 1, once, k, in_sequence & (k > 0))
        return rows.examples(2 * length)
