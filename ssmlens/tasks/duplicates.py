"""Copying strings in which n letters in a row stand twice: what follows them is known by position alone."""

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
    """Rows of `Copy` whose strings have n-grams that occur twice, with another letter before and after each time.

        n=2: the string is  x b a c  e b a d,  where b a occurs twice
        position   0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16  17
        token      x b a c e b a d | x b  a  c  e  b  a  d   end
        label      . . . . . . . . x b a  c  e  b  a  d  end .
        target     . . . . . . . . . . .  3  .  .  .  7  .   .

    Every letter of the answer has its label, but a target alone what follows an n-gram that occurs twice: `accuracy`
    counts these letters and no other. Who looks up the last n letters, or fewer, finds two places and is right half of
    the time; who knows the position is right always. `other_continuation` asks for the wrong one of the two.

    A string is cut into blocks of n + 2 letters (one, the n-gram, one), and the blocks are paired at random: all but
    the last, where their number is odd, are in a pair.

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
        """Where the two blocks of each pair begin, and whether the string is long enough for it."""
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
        """A random string whose second blocks have the n-gram of the first, between other letters."""
        letters = draws.integers(self.letters, (count, self.length))
        k = torch.arange(self._block, device=letters.device)
        shape = (*first.shape, self._block)
        ours, theirs = (at[..., None] + k for at in (first, second))
        block = letters.gather(1, ours.flatten(1)).view(shape)
        other = 1 + draws.integers(self.letters - 1, shape)
        edge = (k == 0) | (k == self._block - 1)
        block = torch.where(edge, (block + other) % self.letters, block)
        kept = letters.gather(1, theirs.flatten(1)).view(shape)
        block = torch.where(paired[..., None], block, kept)
        return self.alphabet.first_letter + letters.scatter(1, theirs.flatten(1), block.flatten(1))

    def _follows(
        self, begin: Int[Tensor, "example pair"], paired: Bool[Tensor, "example pair"]
    ) -> Bool[Tensor, "example letter"]:
        """Which letters of the string come after the n-grams of these blocks."""
        none = torch.zeros(len(begin), self.length, dtype=torch.bool, device=begin.device)
        return none.scatter(1, begin + self.n + 1, paired)

    def _mark(
        self,
        examples: Examples,
        length: Int[Tensor, "example"],
        ambiguous: Bool[Tensor, "example letter"],
    ) -> Examples:
        """The examples with targets at the ambiguous letters alone."""
        batch = examples.batch
        opening = 0 if self.alphabet.begin is None else 1
        letter = (batch.target - opening).clamp(0, self.length - 1)
        asked = ambiguous.gather(1, letter) & (batch.target != NO_TARGET)
        target = batch.target.masked_fill(~asked, NO_TARGET)
        return Examples(dataclasses.replace(batch, target=target), examples.length)


def other_continuation(batch: TaskBatch, n: int) -> TaskBatch:
    """The batch with labels where it has targets: the letter that follows the n-gram at its OTHER place.

    What `accuracy` of it says is how often a model continues from the wrong one of the two places.

    Args:
        batch: Rows of `Duplicates`, one example a row.
        n: Letters of their n-grams.
    """
    tokens, rows, queries = batch.tokens, *(batch.target != NO_TARGET).nonzero(as_tuple=True)
    here = batch.target[rows, queries]
    grams = tokens.unfold(1, n, 1)  # gram k is of tokens k .. k + n − 1
    same = (grams[rows] == grams[rows, here - n][:, None]).all(2)
    asked = torch.zeros_like(batch.target, dtype=torch.bool)
    asked[rows, queries] = True
    place = torch.arange(same.shape[1], device=tokens.device)
    # Places in the string alone: before the first label.
    first = (batch.labels != NO_LABEL).int().argmax(1)[rows]
    same &= (place + n < first[:, None]) & (place != (here - n)[:, None])
    there = same.int().argmax(1) + n
    labels = torch.full_like(batch.labels, NO_LABEL)
    labels[rows, queries] = tokens[rows, there]
    target = torch.full_like(batch.target, NO_TARGET)
    target[rows, queries] = there
    return dataclasses.replace(batch, labels=labels, target=target)
