"""Copying strings with n-grams that occur twice: only the position tells which letter follows them."""

import dataclasses

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ssmlens.tasks.copy import Copy
from ssmlens.tasks.draws import Draws
from ssmlens.tasks.rows import NO_LABEL, NO_TARGET, Examples, TaskBatch
from ssmlens.tasks.task import tasks


@tasks.register("duplicates")
@dataclasses.dataclass(frozen=True)
class Duplicates(Copy):
    """Rows of `Copy` whose strings have n-grams that occur twice, with different letters before and after them.

        n=2: the string is  x b a c  e b a d,  where b a occurs twice
        position   0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16  17
        token      x b a c e b a d | x b  a  c  e  b  a  d   end
        label      . . . . . . . . x b a  c  e  b  a  d  end .
        target     . . . . . . . . . . .  3  .  .  .  7  .   .

    Every letter of the answer has a label. Only letters that follow a repeated n-gram have a target, so `accuracy`
    counts only them. A model that looks up the last n letters, or fewer, finds two places and is right half of the
    time; a model that uses the position is always right. `other_continuation` labels the wrong one of the two.

    A string consists of blocks of n + 2 letters (one, the n-gram, one). The blocks are paired at random; if their
    number is odd, one stays unpaired.

    Attributes:
        n: Letters of an n-gram.
    """

    n: int = 4

    def __post_init__(self):
        self._require(self.n >= 1, "`n`", "of at least 1", self.n)
        self._require(self.letters >= 2, "`letters`", "of at least 2", self.letters)
        super().__post_init__()
        option = "`length`" if self.min_length is None else "`min_length`"
        least = 2 * self._block
        fits = self.shortest >= least
        self._require(fits, option, f"of at least {least}, two n-grams", self.shortest)

    def examples(self, draws: Draws, length: Int[Tensor, "example"]) -> Examples:
        """See `Task.examples`."""
        first, second, paired = self._pairs(draws, length)
        string = self._repeat(draws, first, second, paired, len(length))
        examples = self.rows_of(string, length)
        ambiguous = self._follows(first, paired) | self._follows(second, paired)
        return self._mark(examples, length, ambiguous)

    @property
    def _block(self) -> int:
        return self.n + 2

    def _pairs(
        self, draws: Draws, length: Int[Tensor, "example"]
    ) -> tuple[
        Int[Tensor, "example pair"], Int[Tensor, "example pair"], Bool[Tensor, "example pair"]
    ]:
        """Draw the starts of the two blocks of each pair, and whether the string is long enough for the pair."""
        blocks = self.length // self._block
        number = torch.arange(blocks, device=length.device)
        room = (length // self._block)[:, None]
        keys = draws.uniform((len(length), blocks)).masked_fill(number >= room, 2.0)
        begin = keys.argsort(dim=1)[:, : blocks // 2 * 2] * self._block
        return begin[:, ::2], begin[:, 1::2], number[: blocks // 2] < room // 2

    def _repeat(
        self,
        draws: Draws,
        first: Int[Tensor, "example pair"],
        second: Int[Tensor, "example pair"],
        paired: Bool[Tensor, "example pair"],
        count: int,
    ) -> Int[Tensor, "example letter"]:
        """Draw a string whose second blocks have the n-gram of the first ones, between other letters."""
        letters = draws.integers(self.letters, (count, self.length))
        k = torch.arange(self._block, device=letters.device)
        shape = (*first.shape, self._block)
        ours, theirs = (at[..., None] + k for at in (first, second))
        block = letters.gather(1, ours.flatten(1)).view(shape)
        other = 1 + draws.integers(self.letters - 1, shape)
        edge = (k == 0) | (k == self._block - 1)
        block = torch.where(edge, (block + other) % self.letters, block)
        old = letters.gather(1, theirs.flatten(1)).view(shape)
        block = torch.where(paired[..., None], block, old)
        return self.alphabet.first_letter + letters.scatter(1, theirs.flatten(1), block.flatten(1))

    def _follows(
        self, begin: Int[Tensor, "example pair"], paired: Bool[Tensor, "example pair"]
    ) -> Bool[Tensor, "example letter"]:
        """Return a mask of the letters that follow the n-grams of these blocks."""
        none = torch.zeros(len(begin), self.length, dtype=torch.bool, device=begin.device)
        return none.scatter(1, begin + self.n + 1, paired)

    def _mark(
        self,
        examples: Examples,
        length: Int[Tensor, "example"],
        ambiguous: Bool[Tensor, "example letter"],
    ) -> Examples:
        """Return the examples with targets only at the ambiguous letters."""
        batch = examples.batch
        opening = 0 if self.alphabet.begin is None else 1
        letter = (batch.target - opening).clamp(0, self.length - 1)
        is_ambiguous = ambiguous.gather(1, letter) & (batch.target != NO_TARGET)
        target = batch.target.masked_fill(~is_ambiguous, NO_TARGET)
        return Examples(dataclasses.replace(batch, target=target), examples.length)


def other_continuation(batch: TaskBatch, n: int) -> TaskBatch:
    """Return the batch with new labels at its targets: the letter that follows the n-gram at its OTHER place.

    Its `accuracy` is how often a model continues from the wrong one of the two places.

    Args:
        batch: Rows of `Duplicates`, one example a row.
        n: Letters of their n-grams.
    """
    tokens, rows, queries = batch.tokens, *(batch.target != NO_TARGET).nonzero(as_tuple=True)
    source = batch.target[rows, queries]
    grams = tokens.unfold(1, n, 1)  # gram k is of tokens k .. k + n − 1
    same = (grams[rows] == grams[rows, source - n][:, None]).all(2)
    is_query = torch.zeros_like(batch.target, dtype=torch.bool)
    is_query[rows, queries] = True
    place = torch.arange(same.shape[1], device=tokens.device)
    # Only places in the string: before the first label.
    first = (batch.labels != NO_LABEL).int().argmax(1)[rows]
    same &= (place + n < first[:, None]) & (place != (source - n)[:, None])
    other = same.int().argmax(1) + n
    labels = torch.full_like(batch.labels, NO_LABEL)
    labels[rows, queries] = tokens[rows, other]
    target = torch.full_like(batch.target, NO_TARGET)
    target[rows, queries] = other
    return dataclasses.replace(batch, labels=labels, target=target)
