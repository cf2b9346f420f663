"""The position of every token of a call in its prompt, counted from the prompt's first real token."""

import dataclasses
import functools

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

    def groups(self, *, by_length: bool = False) -> list[tuple[list[int], int, int]]:
        """Group rows whose real tokens begin at the same token of the call.

        Args:
            by_length: Whether the rows of a group also end at the same token.

        Returns:
            Of each group: the rows, their first real token, and the token after their last real one.
        """
        return self._groups_by_length if by_length else self._groups_by_start

    @functools.cached_property
    def _groups_by_start(self) -> list[tuple[list[int], int, int]]:
        return self._groups(by_length=False)

    @functools.cached_property
    def _groups_by_length(self) -> list[tuple[list[int], int, int]]:
        return self._groups(by_length=True)

    def _groups(self, *, by_length: bool) -> list[tuple[list[int], int, int]]:
        groups: dict[tuple[int, int], tuple[list[int], int, int]] = {}
        pairs = zip(self.first.tolist(), self.length.tolist(), strict=True)
        for row, (first, length) in enumerate(pairs):
            start = max(0, -first)
            end = min(start + length, self.tokens)
            if start < end:
                rows, _, last = groups.get(key := (start, end if by_length else 0), ([], 0, 0))
                groups[key] = ([*rows, row], start, max(last, end))
        return [groups[key] for key in sorted(groups)]


@functools.lru_cache(maxsize=64)
def _unpadded(batch: int, tokens: int, before: int) -> Positions:
    """Positions without padding. Cached, since they are the same in every forward."""
    length = torch.full((batch,), before + tokens)
    return Positions(tokens, torch.full((batch,), before), length, length)
