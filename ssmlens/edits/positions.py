"""Which token of its prompt every token of a call is, counted from the first real one."""

import dataclasses
import functools
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ssmlens.edits.selection import Selection
from ssmlens.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Positions:
    """Positions of the tokens of one call.

    Attributes:
        tokens: Tokens of the call.
        first: The position of each row's first token: negative where there is padding on its left, and above 0 in a
            cached step of `generate`.
        length: Real tokens of each prompt so far, those of earlier calls included.
        prefill: Real tokens of each prompt in its first call: what negative numbers count back from.
    """

    tokens: int
    first: Int[Tensor, " batch"]
    length: Int[Tensor, " batch"]
    prefill: Int[Tensor, " batch"]

    @classmethod
    def of(
        cls,
        batch: int,
        tokens: int,
        mask: Tensor | None = None,
        before: int = 0,
        prefill: Tensor | None = None,
    ) -> "Positions":
        """Positions of a call of `tokens` tokens.

        Args:
            batch: Number of prompts.
            tokens: Tokens of the call.
            mask: 1 at real tokens [batch token], also of earlier calls; None: all are real.
            before: Tokens of earlier calls, where there is no mask.
            prefill: Real tokens in the first call, where this is a later one.
        """
        if mask is None:
            positions = _unpadded(batch, tokens, before)
            return positions if prefill is None else dataclasses.replace(positions, prefill=prefill)
        real = mask.to("cpu", torch.bool)
        padding = torch.where(real.any(1), real.int().argmax(1), real.shape[1])
        length = real.sum(1)
        first = real.shape[1] - tokens - padding
        return cls(tokens, first, length, length if prefill is None else prefill)

    @property
    def here(self) -> Int[Tensor, "batch token"]:
        """The position of every token of the call; of padding too, where it is out of 0 ≤ position < length."""
        return self.first.unsqueeze(1) + torch.arange(self.tokens)

    @property
    def real(self) -> Bool[Tensor, "batch token"]:
        """Which tokens of the call are real."""
        return (self.here >= 0) & (self.here < self.length.unsqueeze(1))

    @functools.cached_property
    def padded(self) -> bool:
        """Whether some token of the call is padding."""
        return not bool(self.real.all())

    @functools.cached_property
    def longest(self) -> int:
        """Real tokens of the longest prompt."""
        return int(self.length.max()) if len(self.length) else 0

    def chosen(self, selection: Selection | None) -> Bool[Tensor, "batch token"]:
        """Which tokens of the call are selected; what lies past a prompt's end is not there."""
        if selection is None:
            return self.real
        wide = max(1, self.longest)
        inside = self.here.clamp(0, wide - 1)
        ends = self.prefill.tolist()
        rows = [selection.clipped(wide, end)[at] for end, at in zip(ends, inside, strict=True)]
        return torch.stack(rows) & self.real if rows else self.real

    def check(self, selection: Selection, name: str) -> None:
        """Raise UsageError if the selection reaches past the longest prompt."""
        try:
            selection.mask(self.longest, name)
        except UsageError:
            raise UsageError(
                f"{name} {selection} is past the prompt, which has {self.longest} tokens"
            ) from None

    def groups(self, *, by_length: bool = False) -> Iterator[tuple[list[int], int, int]]:
        """Rows that begin at the same token of the call, with that token and the one after their last real one.

        Args:
            by_length: Rows that are as long, too.
        """
        starts = (-self.first).clamp(min=0)
        ends = torch.minimum(starts + self.length, torch.tensor(self.tokens))
        kinds = torch.stack([starts, ends if by_length else starts], 1).tolist()
        for kind in sorted({tuple(kind) for kind in kinds}):
            rows = [row for row, other in enumerate(kinds) if tuple(other) == kind]
            start, end = int(starts[rows[0]]), int(ends[rows].max())
            if start < end:
                yield rows, start, end


@functools.lru_cache(maxsize=64)
def _unpadded(batch: int, tokens: int, before: int) -> Positions:
    """Those of prompts without padding: the same in every forward."""
    length = torch.full((batch,), before + tokens)
    return Positions(tokens, torch.full((batch,), before), length, length)
