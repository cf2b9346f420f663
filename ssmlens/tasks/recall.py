"""Multi-query associative recall: predict the value that followed a key (paper eq. 11; Arora et al. 2024)."""

import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor

from ssmlens.tasks.draws import Draws
from ssmlens.tasks.letters import MARKS_FIRST
from ssmlens.tasks.rows import Examples, Rows
from ssmlens.tasks.task import Task, tasks

_LAYOUTS = ("default", "zoology")
_IDS = MARKS_FIRST


@tasks.register("recall")
@dataclasses.dataclass(frozen=True)
class Recall(Task):
    """Rows of key-value pairs, then every key again in random order, as a query for its value.

        position   0 1 2 3 4 5 6 7 8 9 10 11 12
        token      a 1 b 2 c 3 | c 3 a 1  b  2   end
        label      . . . . . . . 3 . 1 .  2  .   .
        target     . . . . . . . 5 . 1 .  3  .   .

    Ids: pad 0, separator 1, end 2; keys are the lower half of the letters, values the rest. Keys are drawn without
    replacement, values with. Only values have labels: the next key cannot be known.

    `layout="zoology"`: that library's generator, with `context` tokens a row (even, at least 4 a pair):

        token      a 1 b 2 c 3 * * c * * * a * b *
        label      . . . . . . . . 3 . . . 1 . 2 .

    Keys and values are both drawn without replacement, keys from 1 .. letters/2 − 1, values from letters/2 .. letters −
    1. Query gaps, counted in pairs of columns after the pairs, are drawn without replacement with probability ∝
    gap^(power − 1), gap = 1, 2, ...; nothing is fed back; every other column (*) is any id, keys included.

    Attributes:
        length: Number of pairs.
        letters: Number of keys and values together.
        layout: "default" or "zoology".
        power: Power of the gaps' probabilities in zoology's layout; 1 makes all gaps equally likely.
    """

    length: int = 16
    letters: int = 512
    layout: str = "default"
    power: float | int = 0.01

    def __post_init__(self):
        self._require(self.layout in _LAYOUTS, "`layout`", f"among {_LAYOUTS}", self.layout)
        super().__post_init__()
        keys = self.letters // 2 - (1 if self.layout == "zoology" else 0)
        least = 2 * self.length + (2 if self.layout == "zoology" else 0)
        enough = f"of at least {least}: a key of its own for each pair of `length`"
        self._require(keys >= self.length, "`letters`", enough, self.letters)
        if self.layout == "zoology":
            self._require(self.min_length is None, "`min_length`", "left out", self.min_length)
            self._require(not self.packing, "`packing`", "left out", self.packing)
            even = f"even and of at least {4 * self.length}, 4 for each pair of `length`"
            fits = self.context % 2 == 0 and self.context >= 4 * self.length
            self._require(fits, "`context`", even, self.context)

    @property
    def vocab_size(self) -> int:
        """See `Task.vocab_size`."""
        return self.letters if self.layout == "zoology" else _IDS.first_letter + self.letters

    @property
    def token_strings(self) -> list[str] | None:
        """See `Task.token_strings`: keys come before values; zoology's ids are all alike and have no names."""
        return None if self.layout == "zoology" else _IDS.token_strings(self.letters)

    def row_tokens(self, length: int) -> int:
        """See `Task.row_tokens`."""
        return self.context if self.layout == "zoology" else 4 * length + 2

    def examples(self, draws: Draws, length: Int[Tensor, "example"]) -> Examples:
        """See `Task.examples`."""
        if self.layout == "zoology":
            return self._zoology(draws, len(length))
        return self._pairs(draws, length)

    def _pairs(self, draws: Draws, length: Int[Tensor, "example"]) -> Examples:
        count, half = len(length), self.letters // 2
        key = _IDS.first_letter + draws.distinct(half, count, self.length)
        value = _IDS.first_letter + half + draws.integers(self.letters - half, (count, self.length))
        k = torch.arange(self.length, device=key.device)
        real = k < length[:, None]
        # A random order of the first `length` pairs.
        order = draws.uniform((count, self.length)).masked_fill(~real, 2.0).argsort(dim=1)
        rows = Rows(count, self.row_tokens(self.length), _IDS.pad, key.device)
        pair = (2 * k).expand_as(key)
        query = pair + 2 * length[:, None] + 1
        rows.write(pair, key, real)
        rows.write(pair + 1, value, real)
        rows.write(2 * length, _IDS.separator)
        rows.write(query, key.gather(1, order), real)
        rows.write(query + 1, value.gather(1, order), real)
        rows.write(4 * length + 1, _IDS.end)
        rows.ask(query, value.gather(1, order), 2 * order + 1, real)
        return rows.examples(4 * length + 2)

    def _zoology(self, draws: Draws, count: int) -> Examples:
        half, pairs = self.letters // 2, self.length
        key = 1 + draws.distinct(half - 1, count, pairs)
        value = half + draws.distinct(self.letters - half, count, pairs)
        gap = self._gaps(draws, count)
        rows = Rows(count, self.context, _IDS.pad, key.device)
        column = torch.arange(self.context, device=key.device).expand(count, -1)
        rows.write(column, draws.integers(self.letters, (count, self.context)))
        pair = column[:, : 2 * pairs : 2]
        query = 2 * pairs + 2 * gap
        rows.write(pair, key)
        rows.write(pair + 1, value)
        rows.write(query, key)
        rows.ask(query, value, pair + 1)
        return rows.examples(torch.full_like(key[:, 0], self.context), fed_back=False)

    def _gaps(self, draws: Draws, count: int) -> Int[Tensor, "{count} {self.length}"]:
        """Draw different gaps for each row's pairs, by the Gumbel trick: equal to draws without replacement."""
        space = (self.context - 2 * self.length) // 2
        gap = torch.arange(1, space + 1, dtype=torch.float64, device=draws.device)
        gumbel = -torch.log(-torch.log(draws.uniform((count, space))))
        return ((self.power - 1) * torch.log(gap) + gumbel).topk(self.length, dim=1).indices
