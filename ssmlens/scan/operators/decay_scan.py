"""The decay scan: Mamba-1, 2 and 3, linear attention.

Per head h, with S the running sum of Δ over tokens (paper eq. 8; Ali et al. 2024, arXiv 2403.01590):

    M[h,i,j] = Σ_n C[i,n] · exp(A[h,n] (S[h,i] − S[h,j])) · B[j,n] · Δ[h,j]    for j ≤ i, else 0

`block_recursion` computes this without the tensor [head, state, query, key].
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.names import HEAD, MAP, MASK
from ssmlens.scan import decay_states, decay_sums, discretize
from ssmlens.scan.block_recursion import DecayedPairs, add_rectangle, add_square, energies
from ssmlens.scan.decay_recurrence import run_recurrence
from ssmlens.scan.head_sums import mean_over_heads
from ssmlens.scan.operands import DecayOperands
from ssmlens.scan.operator import Span, places, register
from ssmlens.scan.spans import causal_parts, place, tiles

# Entries [head token state] in memory at once for the energy.
_ENTRIES = 2**22
# The same of a short scan: those of 1024 tokens of mamba-370m. Two longer ones at once would need the most memory.
_SHORT = 2**25


@register
@dataclasses.dataclass(frozen=True, repr=False)
class DecayScan(DecayOperands):
    """The scan of `DecayOperands`. Between writes a state only decays."""

    kind: ClassVar[str] = "decay scan"
    maps: ClassVar[tuple[str, ...]] = (MAP, MASK)
    recordable: ClassVar[bool] = True

    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.__call__`."""
        return run_recurrence(self, x)

    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """See `Operator.matrix`."""
        o = self.select_heads(heads).bare()
        out = o.delta.new_zeros(o.batch, len(heads), queries[1] - queries[0], keys[1] - keys[0])
        for rows, columns in causal_parts(queries, keys) if heads else ():
            i, j = place(rows, columns, queries, keys)
            for n in range(o.batch):
                _add_matrix(out[n, :, i, j], o.sequence(n), rows, columns)
        return out

    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """See `Operator.diagonal`: C·B times the weight of a write for its own token."""
        own = (self.B * self.C).sum(-1).unsqueeze(3)
        return (own * self.writes[1].unflatten(2, (self.groups, -1))).flatten(2)

    def entries(
        self, queries: Int[Tensor, " pair"], keys: Int[Tensor, " pair"]
    ) -> Float[Tensor, "batch pair head"]:
        """See `Operator.entries`."""
        return decay_states.entries(self.bare(), queries, keys)

    def state_after(
        self, x: Float[Tensor, "batch token head headdim"], token: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """See `Operator.state_after`. In Mamba-3 it includes the part of the write that belongs to the next token."""
        o = self.bare()
        return decay_states.state_after(o, x.to(o.delta.dtype), token)

    def state_left(
        self, state: Float[Tensor, "batch head headdim state"], since: int, until: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """See `Operator.state_left`."""
        return decay_states.state_left(self.bare(), state, since, until)

    def read_state(
        self, state: Float[Tensor, "batch head headdim state"], since: int
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.read_state`."""
        return decay_states.read_state(self.bare(), state, since)

    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """See `Operator.means`. The mask: the mean over heads and states of exp(A (S_i − S_j))."""
        return mean_over_heads(self, kinds, queries, keys)

    def probe(
        self, vector: Float[Tensor, "batch token"]
    ) -> dict[str, Float[Tensor, "batch token"]]:
        """See `Operator.probe`. The mask's product is a scan of x = v whose tokens write and read 1.

        On a GPU, starting a short scan takes longer than running it, so both run as one scan if their shapes agree.
        """
        x = vector[:, :, None, None].expand(-1, -1, self.heads, 1)
        alone = self._decay_alone()
        short = self.tokens * self.heads * self.states <= _SHORT
        both = _together(self, alone) if x.is_cuda and short else None
        if both is None:
            return {MAP: self(x).mean((2, 3)), MASK: alone(x).mean((2, 3))}
        of_map, of_mask = both(torch.cat([x, x])).mean((2, 3)).chunk(2)
        return {MAP: of_map, MASK: of_mask}

    def _decay_alone(self) -> "DecayScan":
        """A scan with the same decay in which every token writes 1 and reads 1 / number of states."""
        one, states = torch.ones_like(self.delta), self.decay[1].shape[1]
        B = one[:, :, :1, None].expand(-1, -1, 1, states)
        return dataclasses.replace(self, B=B, C=B / states, write=one, write_now=one)

    def agreement(self, kind: str = MAP, sample: int = 64) -> Float[Tensor, " batch"]:
        """See `Operator.agreement`."""
        o = self._sampled(sample).bare()
        of_mean = o.delta.new_zeros(o.batch)
        for queries, keys in tiles(o):
            of_mean += o.means((kind,), queries, keys).square().sum((1, 2, 3))
        of_heads = o.diagonal().square().sum((1, 2))
        for sequence in range(o.batch):
            of_heads[sequence] += _energy(o.sequence(sequence))
        return of_mean / (of_heads / o.heads)

    def _sampled(self, sample: int) -> "DecayScan":
        """About `sample` heads, the same number from every group, which still share its B and C; without x."""
        alone = dataclasses.replace(self, x=None, D=None, gate=None, surroundings=None)
        heads = places(self._evenly_spaced_heads(sample), self.like.device)
        return alone._cut({HEAD: heads})

    def discretized(self) -> dict[str, Tensor]:
        """See `Operator.discretized`: Ā and B̄."""
        return {
            "A_bar": discretize.discretize_A(*self.decay),
            "B_bar": discretize.discretize_B(self.writes[0], self.B),
        }


ScanOperands = DecayScan
"""The public name of `DecayScan`."""


def _together(one: DecayScan, alone: DecayScan) -> DecayScan | None:
    """A scan and the scan of its decay alone as one batch. None if their shapes differ."""
    write, write_now = one.writes
    both = dataclasses.replace(one, write=write, write_now=write_now).beside(alone)
    if both is None or write is not write_now:
        return both
    return dataclasses.replace(both, write_now=both.write)


def _energy(o: DecayScan) -> Float[Tensor, ""]:
    """The sum of the squares of M of all heads over pairs j < i, for one sequence."""
    if decay_sums.fits(o):
        return decay_sums.energies(o).sum()
    total = o.delta.new_zeros(())
    count = max(1, _ENTRIES // (o.tokens * o.states))
    for heads in torch.arange(o.heads).split(count):
        total = total + energies(_pairs(o.select_heads(heads.tolist()))).sum()
    return total


def _add_matrix(
    out: Float[Tensor, "head query key"], o: DecayScan, queries: Span, keys: Span
) -> None:
    """Add M of one sequence to `out`, on a square of the diagonal or a rectangle below it. Each head is a group."""
    if queries == keys:
        here = o.between(*queries)
        add_square(out.unsqueeze(0), _pairs(here))
        out.diagonal(dim1=1, dim2=2).add_(here.diagonal()[0].T)
        return
    here = o.between(keys[0], queries[1])
    rows, columns = (queries[0] - keys[0], here.tokens), (0, keys[1] - keys[0])
    for head in range(o.heads):
        add_rectangle(out[head : head + 1], _pairs(here.select_heads([head])), rows, columns)


def _pairs(o: DecayScan) -> DecayedPairs:
    """The pairs whose sums are M of one sequence, with a slab for each head. Each head is a group."""
    steps, rate = o.decay
    B, C = (x[0].transpose(0, 1) for x in (o.B, o.C))  # head token state
    return DecayedPairs(
        steps=steps[0].T.unsqueeze(2),
        rate=rate.expand(-1, o.states).unsqueeze(1),
        read=C.unsqueeze(0),
        write=B.unsqueeze(0),
        weight=o.writes[0].mT.unsqueeze(3),
    )
