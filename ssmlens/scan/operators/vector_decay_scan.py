"""The vector decay scan: every state of a head has its own decay, which depends on the data (gated linear attention).

For each head h, with G the running sum of log α over tokens (Yang et al. 2024, arXiv 2312.06635):

    M[h,i,j] = Σ_n C[i,n] · exp(G[h,i,n] − G[h,j,n]) · B[j,n]    for j ≤ i, else 0

The maps use a decay scan in which each state is a head: M of a head is the sum of M over its N states. The recurrence
is that of a delta rule that erases nothing, by chunks. It shares no code with the maps.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssmlens.names import GROUP, HEAD, MAP, MASK, PROMPT, STATE, TOKEN
from ssmlens.scan.delta_recurrence import run_delta_rule
from ssmlens.scan.finite import finite_flag
from ssmlens.scan.operands import NOTHING_LEFT
from ssmlens.scan.operator import Operator, Span, register
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.spans import tiles


@register
@dataclasses.dataclass(frozen=True, repr=False)
class VectorDecayScan(Operator):
    """Operands of S_t = S_{t−1} diag(α_t) + x_t B_tᵀ, y_t = S_t C_t.

    Attributes:
        B: Write vectors: keys.
        C: Read vectors: queries, with their scale.
        log_decay: log α ≤ 0 of every state; −∞ where the state forgets everything before the token.
    """

    B: Float[Tensor, "batch token group state"]
    C: Float[Tensor, "batch token group state"]
    log_decay: Float[Tensor, "batch token head state"]

    kind: ClassVar[str] = "vector decay scan"
    maps: ClassVar[tuple[str, ...]] = (MAP, MASK)
    may_drop_the_last_axis: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "B": (PROMPT, TOKEN, GROUP, STATE),
        "C": (PROMPT, TOKEN, GROUP, STATE),
        "log_decay": (PROMPT, TOKEN, HEAD, STATE),
    }

    def __post_init__(self):
        if self.B.shape != self.C.shape:
            raise ValueError(
                f"B is {tuple(self.B.shape)}, but C is {tuple(self.C.shape)}: they must have one shape"
            )
        if self.log_decay.shape[:2] != self.B.shape[:2]:
            raise ValueError("log_decay and B must have the same prompts and tokens")
        if self.log_decay.shape[3] != self.B.shape[3]:
            raise ValueError(
                f"log_decay has {self.log_decay.shape[3]} states, but B has {self.B.shape[3]}: they must have as many"
            )
        if self.log_decay.shape[2] % max(1, self.B.shape[2]):
            raise ValueError(
                f"{self.log_decay.shape[2]} heads do not divide over {self.B.shape[2]} groups of B and C"
            )

    @property
    def finite(self) -> Bool[Tensor, ""]:
        """See `Operator.finite`. A log_decay of −∞ is allowed: the state forgets everything before the token."""
        return finite_flag(self.B, self.C, self.log_decay.exp())

    @property
    def like(self) -> Tensor:
        """See `Operator.like`."""
        return self.log_decay

    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.__call__`."""
        return self.bare()._run(x)[0]

    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """See `Operator.matrix`."""
        o = self.bare()
        shape = (o.batch, len(heads), queries[1] - queries[0], keys[1] - keys[0])
        out = o.log_decay.new_zeros(shape)
        for n, head in enumerate(heads):
            split = o.select_heads([head])._by_state()
            out[:, n] = split.means((MAP,), queries, keys)[:, 0] * split.heads
        return out

    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """See `Operator.diagonal`: C·B."""
        own = (self.B * self.C).sum(-1)
        return own.repeat_interleave(self.heads // self.groups, dim=2)

    def entries(
        self, queries: Int[Tensor, " pair"], keys: Int[Tensor, " pair"]
    ) -> Float[Tensor, "batch pair head"]:
        """See `Operator.entries`."""
        split = self.bare()._by_state()
        return split.entries(queries, keys).unflatten(2, (self.heads, -1)).sum(3)

    def state_after(
        self, x: Float[Tensor, "batch token head headdim"], token: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """See `Operator.state_after`."""
        return self.bare().between(0, token + 1)._run(x[:, : token + 1])[1]

    def state_left(
        self, state: Float[Tensor, "batch head headdim state"], since: int, until: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """See `Operator.state_left`."""
        passed = self.bare().log_decay[:, since + 1 : until + 1].sum(1).exp()
        return state.to(passed) * passed.unsqueeze(2)

    def read_state(
        self, state: Float[Tensor, "batch head headdim state"], since: int
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.read_state`."""
        o = self.bare()
        first = max(0, since)
        log_decay = o.log_decay[:, first:].clone()
        if since >= 0:
            log_decay[:, 0] = 0  # the given state already includes the decay of this token
        left = state.to(o.log_decay).unsqueeze(1) * log_decay.cumsum(1).exp().unsqueeze(3)
        C = o.C[:, first:].repeat_interleave(o.heads // o.groups, dim=2)
        read = torch.einsum("bthpn,bthn->bthp", left, C)
        return torch.cat([read.new_zeros(o.batch, first, *read.shape[2:]), read], dim=1)

    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """See `Operator.means`. The mask: the mean over heads and states of exp(G_i − G_j)."""
        self.require(kinds)
        out = self.bare()._by_state().means(kinds, queries, keys)
        weights = [self.B.shape[3] if kind == MAP else 1 for kind in kinds]
        return out * out.new_tensor(weights)[:, None, None]

    def probe(
        self, vector: Float[Tensor, "batch token"]
    ) -> dict[str, Float[Tensor, "batch token"]]:
        """See `Operator.probe`."""
        o = self.bare()
        v = vector.to(o.log_decay)
        passed, masked = torch.zeros_like(o.log_decay[:, 0]), [v[:, :0]]
        for step, now in zip(o.log_decay.exp().unbind(1), v.unbind(1), strict=True):
            passed = step * passed + now[:, None, None]
            masked.append(passed.mean((1, 2)).unsqueeze(1))
        x = v[:, :, None, None].expand(-1, -1, o.heads, 1)
        return {MAP: self(x).mean((2, 3)), MASK: torch.cat(masked, dim=1)}

    def agreement(self, kind: str = MAP, sample: int = 64) -> Float[Tensor, " batch"]:
        """See `Operator.agreement`. 1 if every entry is 0."""
        self.require((kind,))
        o = self.select_heads(self._evenly_spaced_heads(sample)).bare()
        of_mean, of_heads = o.log_decay.new_zeros(2, o.batch)
        for queries, keys in tiles(o):
            of_mean += o.means((kind,), queries, keys).square().sum((1, 2, 3))
            for head in range(o.heads):
                of_heads += o.matrix([head], queries, keys).square().sum((1, 2, 3))
        return (of_mean / (of_heads / o.heads)).masked_fill(of_heads == 0, 1.0)

    def with_quantity(self, name: str, value: Tensor) -> "VectorDecayScan":
        """See `Operator.with_quantity`."""
        if name == "log_decay":
            value = value.masked_fill(value == -torch.inf, NOTHING_LEFT)
        return super().with_quantity(name, value)

    def discretized(self) -> dict[str, Tensor]:
        """See `Operator.discretized`: Ā, the decay α."""
        return {"A_bar": self.log_decay.exp()}

    def _run(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> tuple[
        Float[Tensor, "batch token head headdim"], Float[Tensor, "batch head headdim state"]
    ]:
        """The output of the recurrence and the state after the last token: a delta rule with β = 0 and x for β v."""
        o = self.select_heads(range(self.heads))
        arrays: Any = (a.movedim(2, 1) for a in (o.C, o.B, o.log_decay, x.to(o.log_decay)))
        C, B, log_decay, u = arrays
        run = run_delta_rule(C, B, torch.zeros_like(log_decay[..., 0]), log_decay, u)
        return run.output.movedim(1, 2), run.state

    def _by_state(self) -> DecayScan:
        """The decay scan in which every state is a head. M of a head here is the sum of M over its states there."""
        o = self.select_heads(range(self.heads))
        log_decay = o.log_decay.flatten(2).clamp(min=NOTHING_LEFT)
        return DecayScan(
            delta=torch.ones_like(log_decay),
            A=None,
            B=o.B.flatten(2).unsqueeze(3),
            C=o.C.flatten(2).unsqueeze(3),
            log_decay=log_decay,
        )
