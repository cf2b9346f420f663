"""The position of every token of a call in its prompt, counted from the prompt's first real token."""

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
        first: The position of each row's first token. Negative after padding on the left; above 0 in a cached step of
            `generate`.
        length: Real tokens of each prompt so far, including earlier calls.
        prefill: Real tokens of each prompt in its first call. Negative numbers count back from it.
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
            mask: 1 at real tokens [batch token], including earlier calls. None: all are real.
            before: Tokens of earlier calls, if there is no mask.
            prefill: Real tokens in the first call, if this is a later call.
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
        """The position of every token of the call. That of padding is below 0, or `length` or more."""
        return self.first.unsqueeze(1) + torch.arange(self.tokens)

    @property
    def real(self) -> Bool[Tensor, "batch token"]:
        """Which tokens of the call are real."""
        return (self.here >= 0) & (self.here < self.length.unsqueeze(1))

    @functools.cached_property
    def padded(self) -> bool:
        """Whether any token of the call is padding."""
        return not bool(self.real.all())

    @functools.cached_property
    def longest(self) -> int:
        """Real tokens of the longest prompt."""
        return int(self.length.max()) if len(self.length) else 0

    def chosen(self, selection: Selection | None) -> Bool[Tensor, "batch token"]:
        """Which tokens of the call are selected. Positions past a prompt's end are ignored."""
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
        """Group rows whose real tokens begin at the same token of the call.

        Args:
            by_length: Whether the rows of a group also end at the same token.

        Yields:
            The rows, their first real token, and the token after their last real one.
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
    """Positions without padding. Cached, since they are the same in every forward."""
    length = torch.full((batch,), before + tokens)
    return Positions(tokens, torch.full((batch,), before), length, length)
