"""The gated short convolution: a few taps between two gates, as in LFM2 (arXiv 2511.23404).

Per head h, a channel, with κ of K taps, the last of which is the token's own:

    M[h,i,j] = C[i,h] · κ[h, K−1−(i−j)] · B[j,h]    for 0 ≤ i − j < K, else 0

B and C come from the data, so that the matrix does, too: it is a band of K diagonals. The convolution's bias b adds
C[i] b[h] to the layer's y, whatever the tokens are: `offset`, no part of M.
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

    Its state after token t, of K entries, are the values B x of the tokens t, t − 1, …, t − K + 1.

    Attributes:
        B: What multiplies a token before the convolution; a group a head, of one state.
        C: What multiplies what the convolution puts out, likewise.
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
                f"B is {tuple(self.B.shape)} and C {tuple(self.C.shape)}: one shape, of one state"
            )
        if len(self.taps) != self.B.shape[2]:
            raise ValueError(
                f"there are taps of {len(self.taps)} heads, and {self.B.shape[2]} in B"
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
        put = o.B * x.to(o.B.dtype)
        taps = o.taps.repeat_interleave(put.shape[3], dim=0)
        return o.C * causal_conv1d(put.flatten(2), taps).view_as(put)

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
        put = o.B[:, first : token + 1] * x[:, first : token + 1].to(o.B.dtype)
        return F.pad(put.flip(1).movedim(1, 3), (0, taps - put.shape[1]))

    def state_left(
        self, state: Float[Tensor, "batch head headdim state"], since: int, until: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """See `Operator.state_left`: every token moves it on by one."""
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
        seen = state.new_zeros(o.batch, o.tokens, *state.shape[1:3], dtype=o.B.dtype)
        if read:
            seen[:, first:end] = o.C[:, first:end] * torch.stack(read, dim=1)
        return seen

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
        """See `Operator.agreement`; all heads are read. 1 where every entry is 0: then nothing is lost."""
        self.require((kind,))
        o, everything = self.bare(), (0, self.tokens)
        kept, each = o.B.new_zeros(2, o.batch)
        for _, entries in o._diagonals(everything, everything):
            kept += entries.mean(2).square().sum(1)
            each += entries.square().mean(2).sum(1)
        return (kept / each).masked_fill(each == 0, 1.0)

    def _diagonals(
        self, queries: Span, keys: Span
    ) -> Iterator[tuple[int, Float[Tensor, "batch entry head"]]]:
        """The entries of M on each diagonal of a rectangle that holds some, with the offset that torch gives it."""
        last = self.taps.shape[1] - 1
        for lag in range(last + 1):
            first = max(queries[0], keys[0] + lag)
            end = min(queries[1], keys[1] + lag)
            if first < end:
                read, put = self.C[:, first:end], self.B[:, first - lag : end - lag]
                yield queries[0] - keys[0] - lag, (read * put).squeeze(3) * self.taps[:, last - lag]
