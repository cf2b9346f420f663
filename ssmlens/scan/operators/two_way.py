"""The two-way scan: a decay scan over the tokens, plus one over the tokens in reverse (Vim, Caduceus, typeseg).

With P the reversal of the tokens,

    M = M_forward + P M_backward P

so that M is not triangular: below the diagonal stands what a token reads of those before it, above it what it reads of
those after it, and on it both, for a token's own write counts in both directions. The mask is the decay in either
direction; a token's own, 1, counts once there.

Padding has Δ = 0: it writes nothing, and a state passes it as it is. So a padded batch equals its rows alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.names import GROUP, HEAD, MAP, MASK, PROMPT, STATE, TOKEN
from ssmlens.scan.operator import Operator, Span, register, scan_dtype
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.spans import tiles

_PADDED = (
    "its mixer looks ahead, so that tokens see the padding of shorter prompts; take prompts of one length, or a model "
    "that takes an attention_mask"
)
# Entries [batch head query key] of M that are held at once.
_ENTRIES = 2**24


@register
@dataclasses.dataclass(frozen=True, repr=False)
class TwoWayScan(Operator):
    """The sum of a forward and a backward `DecayScan`, over the same x.

    Every array has the tokens in the prompt's own order, those of the backward scan too. A backward array that is None
    is the forward one: some models scan the same operands in both directions.

    Attributes:
        delta: Δ of the forward scan: dimensionless, ≥ 0, and 0 at padding.
        A: Its continuous-time decay, negative.
        B: Its write vectors.
        C: Its read vectors.
        delta_back: Δ of the backward scan, 0 at padding.
        A_back: Its decay.
        B_back: Its write vectors.
        C_back: Its read vectors.
    """

    delta: Float[Tensor, "batch token head"]
    A: Float[Tensor, "head A_state"]
    B: Float[Tensor, "batch token group state"]
    C: Float[Tensor, "batch token group state"]
    delta_back: Float[Tensor, "batch token head"] | None = None
    A_back: Float[Tensor, "head A_state"] | None = None
    B_back: Float[Tensor, "batch token group state"] | None = None
    C_back: Float[Tensor, "batch token group state"] | None = None

    kind: ClassVar[str] = "two-way scan"
    maps: ClassVar[tuple[str, ...]] = (MAP, MASK)
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("delta", "delta_back"), (PROMPT, TOKEN, HEAD)),
        **dict.fromkeys(("A", "A_back"), (HEAD, STATE)),
        **dict.fromkeys(("B", "C", "B_back", "C_back"), (PROMPT, TOKEN, GROUP, STATE)),
    }
    may_drop_the_last_axis: ClassVar[tuple[str, ...]] = ("A", "A_back")

    def __post_init__(self):
        one, other = self.forward, self.backward  # each checks its own arrays
        if one.delta.shape != other.delta.shape or one.groups != other.groups:
            raise ValueError("the two directions of a two-way scan have the same heads and groups")

    @property
    def forward(self) -> DecayScan:
        """The scan from the first token on."""
        return DecayScan(delta=self.delta, A=self.A, B=self.B, C=self.C)

    @property
    def backward(self) -> DecayScan:
        """The scan from the last token on, its tokens in reverse."""
        delta, A, B, C = (
            getattr(self, name) if (own := getattr(self, f"{name}_back")) is None else own
            for name in ("delta", "A", "B", "C")
        )
        return DecayScan(delta=delta.flip(1), A=A, B=B.flip(1), C=C.flip(1))

    @property
    def is_causal(self) -> bool:
        """See `Operator.is_causal`: no."""
        return False

    @property
    def like(self) -> Tensor:
        """See `Operator.like`."""
        return self.delta

    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.__call__`."""
        return self.forward(x) + self.backward(x.flip(1)).flip(1)

    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """See `Operator.matrix`."""
        backward = self.backward.matrix(heads, self._mirrored(queries), self._mirrored(keys))
        return self.forward.matrix(heads, queries, keys) + backward.flip(2, 3)

    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """See `Operator.diagonal`: both directions."""
        return self.forward.diagonal() + self.backward.diagonal().flip(1)

    def entries(
        self, queries: Int[Tensor, " pair"], keys: Int[Tensor, " pair"]
    ) -> Float[Tensor, "batch pair head"]:
        """See `Operator.entries`, here of pairs j < i and j > i."""
        ahead = keys > queries
        shape, dtype = (self.batch, len(queries), self.heads), scan_dtype(self.delta)
        out = self.delta.new_zeros(shape, dtype=dtype)
        last = self.tokens - 1
        out[:, ~ahead] = self.forward.entries(queries[~ahead], keys[~ahead])
        out[:, ahead] = self.backward.entries(last - queries[ahead], last - keys[ahead])
        return out

    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """See `Operator.means`."""
        mirrored = self._mirrored(queries), self._mirrored(keys)
        total = self.forward.means(kinds, queries, keys)
        total = total + self.backward.means(kinds, *mirrored).flip(2, 3)
        if MASK in kinds:
            rows, columns = (torch.arange(*span, device=total.device) for span in (queries, keys))
            total[:, list(kinds).index(MASK)] -= (rows[:, None] == columns).to(total)
        return total

    def probe(
        self, vector: Float[Tensor, "batch token"]
    ) -> dict[str, Float[Tensor, "batch token"]]:
        """See `Operator.probe`."""
        one, other = self.forward.probe(vector), self.backward.probe(vector.flip(1))
        both = {kind: one[kind] + other[kind].flip(1) for kind in one}
        return {**both, MASK: both[MASK] - vector}

    def agreement(self, kind: str = MAP, sample: int = 64) -> Float[Tensor, " batch"]:
        """See `Operator.agreement`. Rows of M of the sampled heads are summed, some at a time."""
        o = self.select_heads(self._evenly_spaced_heads(sample)).bare()
        kept, each = (o.like.new_zeros(o.batch) for _ in range(2))
        for queries, keys in tiles(o):
            width = max(1, keys[1] - keys[0])
            rows = max(1, _ENTRIES // (o.batch * o.heads * width))
            for first in range(*queries, rows):
                some = (first, min(first + rows, queries[1]))
                M = o.matrix(range(o.heads), some, keys)
                kept += M.mean(1).square().sum((1, 2))
                each += M.square().sum((1, 2, 3)) / o.heads
        return kept / each

    def sequence(self, index: int, length: int | None = None) -> "TwoWayScan":
        """See `Operator.sequence`.

        Raises:
            UsageError: What is cut off has a step Δ > 0: it was no padding to the mixer, and earlier tokens read it.
        """
        steps = [self.delta] if self.delta_back is None else [self.delta, self.delta_back]
        if length is not None and any(bool(step[index, length:].any()) for step in steps):
            raise UsageError(_PADDED)
        return super().sequence(index, length)

    def discretized(self) -> dict[str, Tensor]:
        """See `Operator.discretized`: of the forward scan."""
        return self.forward.discretized()

    def _mirrored(self, span: Span) -> Span:
        """Where a range of tokens lies in the sequence in reverse."""
        return self.tokens - span[1], self.tokens - span[0]
