"""The base of tasks on strings of letters: their vocabulary, in two layouts, and rows `s | answer end`."""

import dataclasses
from abc import abstractmethod

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ssmlens.names import BEGIN, END, SEPARATOR
from ssmlens.tasks.draws import Draws
from ssmlens.tasks.rows import Examples, Rows
from ssmlens.tasks.task import Task

LAYOUTS = ("default", "jelassi")
# Names of letters: a to z, A to Z, then Latin letters with diacritics, 562 in all.
_BLOCKS = ((0x61, 0x7B), (0x41, 0x5B), (0xC0, 0x180), (0x1E00, 0x1F00), (0x180, 0x1C0))
_NAMES = [chr(code) for block in _BLOCKS for code in range(*block) if chr(code).isalpha()]


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """Token ids: letters are first_letter, first_letter + 1, ...; `begin`, if any, opens a row."""

    pad: int
    separator: int
    end: int
    first_letter: int
    begin: int | None = None

    def token_strings(self, letters: int) -> list[str] | None:
        """Return the names of the tokens with this many letters: a, b, ..., z, A, ...; None for too many."""
        if letters > len(_NAMES):
            return None
        named = {self.pad: "·pad", self.separator: SEPARATOR, self.end: END}
        named |= {} if self.begin is None else {self.begin: BEGIN}
        named |= {self.first_letter + k: _NAMES[k] for k in range(letters)}
        return [named[token] for token in range(len(named))]


MARKS_FIRST = Alphabet(pad=0, separator=1, end=2, first_letter=3)
"""The default layout's token ids, as in the shipped models."""


@dataclasses.dataclass(frozen=True)
class LetterTask(Task):
    """A task on strings of letters.

    Attributes:
        letters: Number of letters.
        layout: "default": pad 0, separator 1, end 2, then the letters, as in the shipped models. "jelassi" (Jelassi et
            al. 2024): the letters from 0, then begin, separator, end, pad; rows open with begin and are packed.
    """

    letters: int = 26
    layout: str = "default"

    def __post_init__(self):
        self._require(self.layout in LAYOUTS, "`layout`", f"among {LAYOUTS}", self.layout)
        self._require(self.letters >= 1, "`letters`", "of at least 1", self.letters)
        super().__post_init__()

    @property
    def alphabet(self) -> Alphabet:
        """The token ids."""
        n = self.letters
        if self.layout == "jelassi":
            return Alphabet(begin=n, separator=n + 1, end=n + 2, pad=n + 3, first_letter=0)
        return MARKS_FIRST

    @property
    def vocab_size(self) -> int:
        """See `Task.vocab_size`: the letters and the marks."""
        return self.letters + (4 if self.layout == "jelassi" else 3)

    @property
    def token_strings(self) -> list[str] | None:
        """See `Task.token_strings`."""
        return self.alphabet.token_strings(self.letters)

    @property
    def packs(self) -> bool:
        """See `Task.packs`."""
        return self.layout == "jelassi" if self.packing is None else self.packing

    def draw_strings(self, draws: Draws, count: int) -> Int[Tensor, "{count} {self.length}"]:
        """Draw one string per row: independent, uniform letters, with replacement."""
        letters = draws.integers(self.letters, (count, self.length))
        return self.alphabet.first_letter + letters

    def open_rows(self, count: int, device: torch.device) -> tuple[Rows, int]:
        """Return empty rows, and their first free column (after `begin`, if any)."""
        ids = self.alphabet
        rows = Rows(count, self.row_tokens(self.length), ids.pad, device)
        if ids.begin is None:
            return rows, 0
        rows.write(torch.zeros(count, dtype=torch.long, device=device), ids.begin)
        return rows, 1

    def close_rows(
        self,
        rows: Rows,
        start: Int[Tensor, "example"],
        letters: Int[Tensor, "example letter"],
        places: Int[Tensor, "example letter"],
        length: Int[Tensor, "example"],
    ) -> Examples:
        """Write and label the answer: from column `start` on the first `length` of `letters`, then `end`.

        `places` are the targets: the columns of the answer's letters in the row.
        """
        k = torch.arange(letters.shape[1], device=letters.device)
        in_answer: Bool[Tensor, "example letter"] = k < length[:, None]
        rows.write(start[:, None] + k, letters, in_answer)
        rows.write(start + length, self.alphabet.end)
        rows.ask(start[:, None] + k - 1, letters, places, in_answer)
        rows.ask(start + length - 1, self.alphabet.end)
        return rows.examples(start + length + 1)


class StringTask(LetterTask):
    """Rows `s | answer end`, where the answer has the letters of s in an order that the task defines."""

    def row_tokens(self, length: int) -> int:
        """See `Task.row_tokens`."""
        return 2 * length + (3 if self.layout == "jelassi" else 2)

    @abstractmethod
    def order(
        self, string: Int[Tensor, "example letter"], length: Int[Tensor, "example 1"]
    ) -> Int[Tensor, "example letter"]:
        """Return the place in the string of the answer's k-th letter, for k < length; any value beyond."""

    def examples(self, draws: Draws, length: Int[Tensor, "example"]) -> Examples:
        """See `Task.examples`."""
        return self.rows_of(self.draw_strings(draws, len(length)), length)

    def rows_of(
        self, string: Int[Tensor, "example letter"], length: Int[Tensor, "example"]
    ) -> Examples:
        """Build the rows of these strings, of which the first `length` letters count."""
        rows, first = self.open_rows(len(length), string.device)
        k = torch.arange(self.length, device=string.device)
        rows.write((first + k).expand_as(string), string, k < length[:, None])
        rows.write(first + length, self.alphabet.separator)
        order = self.order(string, length[:, None])
        answer = string.gather(1, order.clamp(min=0))
        return self.close_rows(rows, first + length + 1, answer, first + order, length)
