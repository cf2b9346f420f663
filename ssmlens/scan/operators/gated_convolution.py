"""The gated short convolution: a few taps between two gates, as in LFM2 (arXiv 2511.23404).

A head h is one channel. With κ of K taps, the last one being that of the token itself,

    M[h,i,j] = C[i,h] · κ[h, K−1−(i−j)] · B[j,h]    for 0 ≤ i − j < K, else 0

M is a band of K diagonals. It depends on the data through B and C. The convolution's bias b adds C[i] b[h] to the
layer's y for any x. That is the `offset`, which is not part of M.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.names import GROUP, HEAD, MAP, PROMPT, STATE, TAP, TOKEN
from ssmlens.scan.causal_conv import causal_conv1d
from ssmlens.scan.operator import Operator, Span, register


@register
@dataclass(frozen=True, repr=False)
class GatedConvolution(Operator):
    """Operands of y[i] = C[i] (Σ_j κ[i − j] B[j] x[j] + b).

    The state after token t has K entries: the values B x of the tokens t, t − 1, …, t − K + 1.

    Attributes:
        B: Factor of x before the convolution. Each head is a group and has one state.
        C: Factor of the convolution's output, with the same axes.
        taps: κ; the last one is that of the token itself.
        bias: b, or None.
    """

    B: Float[Tensor, "batch token group 1"]
    C: Float[Tensor, "batch token group 1"]
    taps: Float[Tensor, "head tap"]
    bias: Float[Tensor, " head"] | None = None

    kind: ClassVar[str] = "gated convolution"
    maps: ClassVar[tuple[str, ...]] = (MAP,)
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "B": (PROMPT, TOKEN, GROUP, STATE),
        "C": (PROMPT, TOKEN, GROUP, STATE),
        "taps": (HEAD, TAP),
        "bias": (HEAD,),
    }

    def __post_init__(self):
        if self.B.shape != self.C.shape or self.B.shape[3] != 1:
            raise ValueError(
                f"B is {tuple(self.B.shape)} and C is {tuple(self.C.shape)}: they must have one shape, and one state"
            )
        if len(self.taps) != self.B.shape[2]:
            raise ValueError(
                f"there are taps of {len(self.taps)} heads, but {self.B.shape[2]} heads in B"
            )

    @property
    def like(self) -> Tensor:
        """See `Operator.like`."""
        return self.B

    @property
    def offset(self) -> Float[Tensor, "batch token head 1"] | None:
        """See `Operator.offset`."""
        return None if self.bias is None else self.C * self.bias.unsqueeze(1)

    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.__call__`."""
        o = self.bare()
        gated = o.B * x.to(o.B.dtype)
        taps = o.taps.repeat_interleave(gated.shape[3], dim=0)
        return o.C * causal_conv1d(gated.flatten(2), taps).view_as(gated)

    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """See `Operator.matrix`."""
        o = self.select_heads(heads).bare()
        out = o.B.new_zeros(o.batch, o.heads, queries[1] - queries[0], keys[1] - keys[0])
        for offset, entries in o._diagonals(queries, keys):
            out.diagonal(offset, 2, 3).add_(entries.mT)
        return out

    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """See `Operator.diagonal`."""
        return (self.C * self.B).squeeze(3) * self.taps[:, -1]

    def entries(
        self, queries: Int[Tensor, " pair"], keys: Int[Tensor, " pair"]
    ) -> Float[Tensor, "batch pair head"]:
        """See `Operator.entries`."""
        o = self.bare()
        lag, last = queries - keys, o.taps.shape[1] - 1
        taps = torch.where(lag <= last, o.taps[:, (last - lag).clamp(min=0)], 0)  # head pair
        return (o.C[:, queries] * o.B[:, keys]).squeeze(3) * taps.T

    def state_after(
        self, x: Float[Tensor, "batch token head headdim"], token: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """See `Operator.state_after`."""
        o, taps = self.bare(), self.taps.shape[1]
        first = max(0, token + 1 - taps)
        gated = o.B[:, first : token + 1] * x[:, first : token + 1].to(o.B.dtype)
        return F.pad(gated.flip(1).movedim(1, 3), (0, taps - gated.shape[1]))

    def state_left(
        self, state: Float[Tensor, "batch head headdim state"], since: int, until: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """See `Operator.state_left`. Every token shifts the state by one entry."""
        passed = min(until - since, state.shape[3])
        return F.pad(state, (passed, 0))[..., : state.shape[3]].to(self.bare().B.dtype)

    def read_state(
        self, state: Float[Tensor, "batch head headdim state"], since: int
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.read_state`."""
        o = self.bare()
        kernel = o.taps.flip(1).unsqueeze(1)  # by lag
        first, end = max(0, since), min(o.tokens, since + kernel.shape[2])
        read = [
            (self.state_left(state, since, token) * kernel).sum(3) for token in range(first, end)
        ]
        out = state.new_zeros(o.batch, o.tokens, *state.shape[1:3], dtype=o.B.dtype)
        if read:
            out[:, first:end] = o.C[:, first:end] * torch.stack(read, dim=1)
        return out

    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """See `Operator.means`."""
        self.require(kinds)
        o = self.bare()
        out = o.B.new_zeros(o.batch, len(kinds), queries[1] - queries[0], keys[1] - keys[0])
        for offset, entries in o._diagonals(queries, keys):
            out.diagonal(offset, 2, 3).add_(entries.mean(2).unsqueeze(1))
        return out

    def probe(
        self, vector: Float[Tensor, "batch token"]
    ) -> dict[str, Float[Tensor, "batch token"]]:
        """See `Operator.probe`."""
        return {MAP: self(vector[:, :, None, None].expand(-1, -1, self.heads, 1)).mean((2, 3))}

    def agreement(self, kind: str = MAP, sample: int = 64) -> Float[Tensor, " batch"]:
        """See `Operator.agreement`. Uses all heads. 1 if every entry is 0."""
        self.require((kind,))
        o, all_tokens = self.bare(), (0, self.tokens)
        of_mean, of_heads = o.B.new_zeros(2, o.batch)
        for _, entries in o._diagonals(all_tokens, all_tokens):
            of_mean += entries.mean(2).square().sum(1)
            of_heads += entries.square().mean(2).sum(1)
        return (of_mean / of_heads).masked_fill(of_heads == 0, 1.0)

    def _diagonals(
        self, queries: Span, keys: Span
    ) -> Iterator[tuple[int, Float[Tensor, "batch entry head"]]]:
        """The nonzero diagonals of M on a rectangle: each with its offset as in torch.diagonal, and its entries."""
        last = self.taps.shape[1] - 1
        for lag in range(last + 1):
            first = max(queries[0], keys[0] + lag)
            end = min(queries[1], keys[1] + lag)
            if first < end:
                C, B = self.C[:, first:end], self.B[:, first - lag : end - lag]
                yield queries[0] - keys[0] - lag, (C * B).squeeze(3) * self.taps[:, last - lag]
