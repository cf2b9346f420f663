"""Repetition: random tokens twice over, on which induction shows in any language model (Olsson et al. 2022)."""

import dataclasses

import torch

from ssmlens.errors import UsageError
from ssmlens.tasks.task import NO_TARGET, TaskBatch, generator, tasks


@tasks.register("repeat")
@dataclasses.dataclass(frozen=True)
class Repeat:
    """Rows `s s` for random sequences s.

        position   0 1 2 3 4 5
        token      b a c b a c
        target     . . . 1 2 .

    From the second b on, what comes next is known: it stands one after the query token's first place.

    Attributes:
        length: Tokens of a sequence before it repeats.
        count: Number of sequences.
        vocab_size: Ids are drawn from first_token .. vocab_size − 1, uniformly, with replacement.
        first_token: Lowest id drawn.
    """

    length: int = 64
    count: int = 4
    vocab_size: int = 256
    first_token: int = 0

    def __post_init__(self):
        if self.length < 2 or self.count < 1:
            raise UsageError(
                "the repeat task needs a --length of at least 2 and a --count of at least 1"
            )
        if self.vocab_size - self.first_token < 2:
            raise UsageError("the repeat task needs at least two tokens to draw from")

    def build(self, seed: int = 0) -> TaskBatch:
        """The sequences of this seed, with where each query must look."""
        shape = (self.count, self.length)
        once = torch.randint(self.first_token, self.vocab_size, shape, generator=generator(seed))
        tokens = torch.cat([once, once], dim=1)
        target = torch.full_like(tokens, NO_TARGET)
        target[:, self.length : 2 * self.length - 1] = torch.arange(1, self.length)
        return TaskBatch(tokens, target)
