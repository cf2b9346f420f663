"""The two-way scan: the sum of a decay scan over the tokens and one over the reversed tokens (Vim, Caduceus, typeseg).

With P the reversal of the tokens,

    M = M_forward + P M_backward P.

So M is not triangular. Below the diagonal are the weights on earlier tokens, above it those on later tokens. On it is
the sum of both directions, since each reads the token's own write. The mask is the decay in either direction; its
diagonal, 1, is counted once.

Padding has Δ = 0, so it writes nothing and does not change a state. So a padded batch gives the same as its rows alone.
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
# Entries [batch head query key] of M in memory at once.
_ENTRIES = 2**24


@register
@dataclasses.dataclass(frozen=True, repr=False)
class TwoWayScan(Operator):
    """The sum of a forward and a backward `DecayScan` of the same x.

    All arrays, also those of the backward scan, have the tokens in the prompt's order. A backward array that is None
    equals the forward one: some models scan the same operands in both directions.

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
            raise ValueError(
                "both directions of a two-way scan must have the same heads and groups"
            )

    @property
    def forward(self) -> DecayScan:
        """The scan from the first token on."""
        return DecayScan(delta=self.delta, A=self.A, B=self.B, C=self.C)

    @property
    def backward(self) -> DecayScan:
        """The scan from the last token on, over the reversed tokens."""
        delta, A, B, C = (
            getattr(self, name) if (own := getattr(self, f"{name}_back")) is None else own
            for name in ("delta", "A", "B", "C")
        )
        return DecayScan(delta=delta.flip(1), A=A, B=B.flip(1), C=C.flip(1))

    @property
    def is_causal(self) -> bool:
        """See `Operator.is_causal`. Always False."""
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
        """See `Operator.diagonal`: the sum of both directions."""
        return self.forward.diagonal() + self.backward.diagonal().flip(1)

    def entries(
        self, queries: Int[Tensor, " pair"], keys: Int[Tensor, " pair"]
    ) -> Float[Tensor, "batch pair head"]:
        """See `Operator.entries`. Pairs may have j < i or j > i."""
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
        """See `Operator.agreement`. It computes M of the sampled heads, some rows at a time."""
        o = self.select_heads(self._evenly_spaced_heads(sample)).bare()
        of_mean, of_heads = (o.like.new_zeros(o.batch) for _ in range(2))
        for queries, keys in tiles(o):
            width = max(1, keys[1] - keys[0])
            rows = max(1, _ENTRIES // (o.batch * o.heads * width))
            for first in range(*queries, rows):
                some = (first, min(first + rows, queries[1]))
                M = o.matrix(range(o.heads), some, keys)
                of_mean += M.mean(1).square().sum((1, 2))
                of_heads += M.square().sum((1, 2, 3)) / o.heads
        return of_mean / of_heads

    def sequence(self, index: int, length: int | None = None) -> "TwoWayScan":
        """See `Operator.sequence`.

        Raises:
            UsageError: A token that is cut off has a step Δ > 0: the mixer read it, so it was not padding.
        """
        steps = [self.delta] if self.delta_back is None else [self.delta, self.delta_back]
        if length is not None and any(bool(step[index, length:].any()) for step in steps):
            raise UsageError(_PADDED)
        return super().sequence(index, length)

    def discretized(self) -> dict[str, Tensor]:
        """See `Operator.discretized`: Ā and B̄ of the forward scan."""
        return self.forward.discretized()

    def _mirrored(self, span: Span) -> Span:
        """The place of a range of tokens in the reversed sequence."""
        return self.tokens - span[1], self.tokens - span[0]
