"""Sorting: repeat different letters in ascending order (paper section 4)."""

import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor

from ssmlens.tasks.draws import Draws
from ssmlens.tasks.letters import StringTask
from ssmlens.tasks.task import tasks


@tasks.register("sort")
@dataclasses.dataclass(frozen=True)
class Sort(StringTask):
    """Rows `s | sorted(s) end` for strings s without repetition, in ascending order of ids; options: `LetterTask`.

        position   0 1 2 3 4 5 6   7
        token      b d a | a b d   end
        label      . . . a b d end .
        target     . . . 2 0 1 .   .

    Letters are drawn without replacement, of 512 as in the paper; all strings are equally likely. `layout="jelassi"`:
    `$ s | sorted(s) .`, packed, as in `Copy`.
    """

    letters: int = 512

    def __post_init__(self):
        super().__post_init__()
        enough = f"of at least {self.length} (`length`): no letter comes twice"
        self._require(self.letters >= self.length, "`letters`", enough, self.letters)

    def draw_strings(self, draws: Draws, count: int) -> Int[Tensor, "{count} {self.length}"]:
        """See `LetterTask.draw_strings`: without replacement."""
        return self.alphabet.first_letter + draws.distinct(self.letters, count, self.length)

    def order(
        self, string: Int[Tensor, "example letter"], length: Int[Tensor, "example 1"]
    ) -> Int[Tensor, "example letter"]:
        """See `StringTask.order`: by id, with places beyond the string last."""
        k = torch.arange(string.shape[1], device=string.device)
        return string.masked_fill(k >= length, self.vocab_size).argsort(dim=1)
