"""N-gram look-up: predict the letters that follow a piece of a string (Jelassi et al. 2024)."""

import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor

from ssmlens.tasks.draws import Draws
from ssmlens.tasks.letters import LetterTask
from ssmlens.tasks.rows import Examples
from ssmlens.tasks.task import tasks

_CUES = ("suffix", "prefix")


@tasks.register("ngram")
@dataclasses.dataclass(frozen=True)
class Ngram(LetterTask):
    """Rows `s | g answer end`, or `g | s | answer end`: g is n letters of s, and the answer is what follows g in s.

        cue="suffix"
        position   0 1 2 3 4 5 6 7 8   9
        token      e b a c d | b a c d ...     (g = b a)
        label      . . . . . . . c d end
        target     . . . . . . . 3 4 .

        cue="prefix"
        position   0 1 2 3 4 5 6 7 8 9   10
        token      b a | e b a c d | c d  end
        label      . . . . . . . . c d end .
        target     . . . . . . . . 6 7 .   .

    The start of g is drawn uniformly from the places that leave room for the answer; if g also occurs earlier, its
    first occurrence counts. `layout="jelassi"`: the same rows after `$`, packed.

    Attributes:
        n: Letters of the cue g.
        answer: Letters of the answer; 0: all letters that follow in s, at least one.
        cue: Whether g comes after the string ("suffix") or before it ("prefix").
    """

    n: int = 3
    answer: int = 0
    cue: str = "suffix"

    def __post_init__(self):
        self._require(self.n >= 1, "`n`", "of at least 1", self.n)
        self._require(self.answer >= 0, "`answer`", "of at least 0", self.answer)
        self._require(self.cue in _CUES, "`cue`", f"among {_CUES}", self.cue)
        super().__post_init__()
        need = self.n + max(self.answer, 1)
        option = "`length`" if self.min_length is None else "`min_length`"
        fits = self.shortest >= need
        self._require(fits, option, f"of at least {need}, a cue and its answer", self.shortest)

    def row_tokens(self, length: int) -> int:
        """See `Task.row_tokens`."""
        return self._row_tokens(length, self.answer or length - self.n)

    def least_row_tokens(self, length: int) -> int:
        """See `Task.least_row_tokens`."""
        return self._row_tokens(length, max(self.answer, 1))

    def _row_tokens(self, length: int, answer: int) -> int:
        marks = 2 + (self.cue == "prefix") + (self.layout == "jelassi")
        return length + self.n + answer + marks

    def examples(self, draws: Draws, length: Int[Tensor, "example"]) -> Examples:
        """See `Task.examples`."""
        count = len(length)
        string = self.draw_strings(draws, count)
        room = length - self.n - max(self.answer, 1) + 1
        drawn = (draws.uniform((count,)) * room).long()
        windows: Int[Tensor, "example place n"] = string.unfold(1, self.n, 1)
        cue = windows[torch.arange(count, device=string.device), drawn]
        follows = (windows == cue[:, None]).all(2).int().argmax(1) + self.n

        rows, first = self.open_rows(count, string.device)
        string_at, cue_at = torch.full_like(length, first), first + length + 1
        if self.cue == "prefix":
            string_at, cue_at = string_at + self.n + 1, string_at
            rows.write(cue_at + self.n, self.alphabet.separator)
        rows.write(string_at + length, self.alphabet.separator)
        k = torch.arange(self.length, device=string.device)
        rows.write(string_at[:, None] + k, string, k < length[:, None])
        rows.write(cue_at[:, None] + k[: self.n], cue)

        start = torch.maximum(string_at + length + 1, cue_at + self.n)
        answer_length = torch.full_like(follows, self.answer) if self.answer else length - follows
        place = follows[:, None] + k
        answer = string.gather(1, place.clamp(max=self.length - 1))
        return self.close_rows(rows, start, answer, string_at[:, None] + place, answer_length)
