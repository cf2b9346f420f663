"""Copying: say a string again after a separator (paper eq. 10)."""

import dataclasses

import torch

from ssmlens.errors import UsageError
from ssmlens.tasks.task import NO_TARGET, TaskBatch, generator, tasks


@tasks.register("copy")
@dataclasses.dataclass(frozen=True)
class Copy:
    """Rows `s | s end` for random strings s, in the layout of the shipped models.

        position   0 1 2 3 4 5 6 7
        token      b a c | b a c end
        target     . . . 0 1 2 . .

    The query at the separator must say s[0], the one at s[0] must say s[1], ...: `length` positions back each.
    Letters are drawn independently and uniformly, with replacement.

    Attributes:
        length: Letters of a string.
        count: Number of strings.
        separator: Id between a string and its copy.
        end: Id that ends a row.
        first_letter: Lowest id of a letter.
        letters: Number of letters.
    """

    length: int = 40
    count: int = 4
    separator: int = 1
    end: int = 2
    first_letter: int = 3
    letters: int = 26

    def __post_init__(self):
        if self.length < 1 or self.count < 1:
            raise UsageError("the copy task needs --length and --count of at least 1")

    def build(self, seed: int = 0) -> TaskBatch:
        """The strings of this seed, with where each query must look."""
        shape = (self.count, self.length)
        string = self.first_letter + torch.randint(self.letters, shape, generator=generator(seed))
        mark = torch.ones(self.count, 1, dtype=torch.long)
        tokens = torch.cat([string, self.separator * mark, string, self.end * mark], dim=1)
        target = torch.full_like(tokens, NO_TARGET)
        target[:, self.length : 2 * self.length] = torch.arange(self.length)
        return TaskBatch(tokens, target)
