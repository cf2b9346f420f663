"""The delta rule: DeltaNet, gated DeltaNet (a decay for each head), Kimi delta attention (for each key component)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssmlens.names import ERASE, GROUP, HEAD, MAP, MASK, PROMPT, STATE, TOKEN
from ssmlens.scan.delta_blocks import Operands
from ssmlens.scan.delta_maps import READERS, add_mask, parts
from ssmlens.scan.delta_recurrence import Run, run_delta_rule
from ssmlens.scan.finite import finite_flag
from ssmlens.scan.operator import Operator, Span, register
from ssmlens.scan.spans import place, tiles

# Entries [token head state] of readers and writers in memory at once. On a CPU they fit in its caches.
_ENTRIES = {"cpu": 2**19, "cuda": 2**25}


@register
@dataclass(frozen=True, repr=False)
class DeltaRule(Operator):
    """Operands of S_t = α_t S_{t−1} + β_t (v_t − α_t S_{t−1} k_t) k_tᵀ, o_t = S_t q_t; `x` is v.

    The decay comes before the erase (Yang, Kautz & Hatamizadeh 2024, arXiv 2412.06464). A vector α scales the
    components of the key's side of S (Kimi Linear, arXiv 2510.26692). With L[i,j] = Π_{j<m≤i} α_m the matrix is

        M = tril(Q Kᵀ ∘ L) · (I + E)⁻¹ · diag(β),    E = diag(β) · strictly_lower(K Kᵀ ∘ L),

    where a vector α multiplies inside the products: Σ_n q_i[n] L[i,j,n] k_j[n].

    Its maps are means over heads: "map" of M; "mask" of L (over key components too); "erase" of (I + E)⁻¹ − I, whose
    entry (i, j) is the factor with which the write at token i takes back token j's β v.

    Attributes:
        q: Queries after convolution, SiLU, L2 norm and the scale d_k^(−1/2).
        k: Keys after convolution, SiLU and L2 norm.
        beta: Strength of each write.
        log_decay: log α ≤ 0; −∞ where a token forgets everything before it; 0 without decay. With one component, all
            key components share the decay.
    """

    q: Float[Tensor, "batch token group state"]
    k: Float[Tensor, "batch token group state"]
    beta: Float[Tensor, "batch token head"]
    log_decay: Float[Tensor, "batch token head #state"]

    kind: ClassVar[str] = "delta rule"
    maps: ClassVar[tuple[str, ...]] = (MAP, MASK, ERASE)
    may_drop_the_last_axis: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "q": (PROMPT, TOKEN, GROUP, STATE),
        "k": (PROMPT, TOKEN, GROUP, STATE),
        "beta": (PROMPT, TOKEN, HEAD),
        "log_decay": (PROMPT, TOKEN, HEAD, STATE),
    }

    def __post_init__(self):
        for name, axes in self.axes.items():
            if getattr(self, name).ndim != len(axes):
                raise ValueError(f"{name} must have the axes {', '.join(axes)}")
        if self.k.shape != self.q.shape:
            raise ValueError(
                f"q is {tuple(self.q.shape)}, but k is {tuple(self.k.shape)}: they must have one shape"
            )
        if self.beta.shape[:2] != self.q.shape[:2]:
            raise ValueError("beta and q must have the same prompts and tokens")
        if self.log_decay.shape[:3] != self.beta.shape:
            raise ValueError("log_decay and beta must have the same prompts, tokens and heads")
        if self.log_decay.shape[3] not in (1, self.q.shape[3]):
            raise ValueError(
                f"log_decay has {self.log_decay.shape[3]} components, but keys have {self.q.shape[3]}: "
                "it must have as many, or one"
            )
        if self.beta.shape[2] % max(1, self.q.shape[2]):
            raise ValueError(
                f"{self.beta.shape[2]} heads do not divide over {self.q.shape[2]} groups of q and k"
            )

    @property
    def finite(self) -> Bool[Tensor, ""]:
        """See `Operator.finite`. A log_decay of −∞ is allowed: the token forgets everything before it."""
        return finite_flag(self.q, self.k, self.beta, self.log_decay.exp())

    @property
    def like(self) -> Tensor:
        """See `Operator.like`."""
        return self.beta

    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.__call__`."""
        o = self.bare()
        return o._run(o.beta.unsqueeze(-1) * x.to(o.beta)).output.movedim(1, 2)

    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """See `Operator.matrix`."""
        o = self.bare().select_heads(heads)
        out = o.beta.new_zeros(o.batch, len(heads), queries[1] - queries[0], keys[1] - keys[0])
        for n in range(o.batch):
            for part in parts(o._operands(n), queries, keys):
                out[n, :, *place(part.rows, part.columns, queries, keys)] = part.by_head(MAP)
        return out

    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """See `Operator.diagonal`: β_i (q_i · k_i)."""
        o = self.bare()
        return o.beta * (o.q * o.k).sum(-1).repeat_interleave(o.heads // o.groups, dim=2)

    def state_after(
        self, x: Float[Tensor, "batch token head headdim"], token: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """See `Operator.state_after`: S [head d_v d_k]."""
        o = self.bare().between(0, token + 1)
        return o._run(o.beta.unsqueeze(-1) * x[:, : token + 1].to(o.beta)).state

    def state_left(
        self, state: Float[Tensor, "batch head headdim state"], since: int, until: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """See `Operator.state_left`. The tokens between decay and erase the state, and write nothing."""
        o = self.bare().between(since + 1, until + 1)
        return o._run(_no_writes(o, state), state.to(o.beta)).state

    def read_state(
        self, state: Float[Tensor, "batch head headdim state"], since: int
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.read_state`."""
        o = self.bare()
        state = state.to(o.beta)
        later = o.between(since + 1, self.tokens)
        after = later._run(_no_writes(later, state), state).output.movedim(1, 2)
        if since < 0:
            return after
        q = o.q[:, since].repeat_interleave(o.heads // o.groups, dim=1)
        own = (state @ q.unsqueeze(-1)).mT  # batch head 1 headdim
        before = after.new_zeros(o.batch, since, *after.shape[2:])
        return torch.cat([before, own.movedim(2, 1), after], dim=1)

    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """See `Operator.means`. Map and erase share most of their computation."""
        o = self.bare()
        out = o.beta.new_zeros(o.batch, len(kinds), queries[1] - queries[0], keys[1] - keys[0])
        signed = [(n, kind) for n, kind in enumerate(kinds) if kind in READERS]
        for some in o._slabs(max(0, queries[1] - keys[0])) if signed else ():
            for sequence in range(o.batch):
                for part in parts(some._operands(sequence), queries, keys):
                    i, j = place(part.rows, part.columns, queries, keys)
                    for n, kind in signed:
                        out[sequence, n, i, j] += part.summed(kind)
        out /= o.heads
        for n in (n for n, kind in enumerate(kinds) if kind == MASK):
            for sequence in range(o.batch):
                add_mask(out[sequence, n], o.log_decay[sequence].flatten(1), queries, keys)
            out[:, n] /= o.heads * o.log_decay.shape[3]
        return out

    def probe(
        self, vector: Float[Tensor, "batch token"]
    ) -> dict[str, Float[Tensor, "batch token"]]:
        """See `Operator.probe`. The erase's product is δ − u, where the recurrence writes δ for β v = u."""
        o = self.bare()
        v = vector.to(o.beta)
        u = v[:, :, None, None].expand(-1, -1, o.heads, 1)
        passed, masked = v.new_zeros(o.batch, *o.log_decay.shape[2:]), [v[:, :0]]
        for step, now in zip(o.log_decay.exp().unbind(1), v.unbind(1), strict=True):
            passed = step * passed + now[:, None, None]
            masked.append(passed.mean((1, 2)).unsqueeze(1))
        return {
            MAP: self(u).mean((2, 3)),
            MASK: torch.cat(masked, dim=1),
            ERASE: o._run(u).erased.mean((1, 3)),
        }

    def agreement(self, kind: str = MAP, sample: int = 64) -> Float[Tensor, " batch"]:
        """See `Operator.agreement`. 1 if every entry is 0, as for the erase of a single token."""
        o = self.bare().select_heads(self._evenly_spaced_heads(sample))
        of_mean = o.beta.new_zeros(o.batch)
        for queries, keys in tiles(o):
            of_mean += o.means((kind,), queries, keys).square().sum((1, 2, 3))
        of_heads, all_tokens = torch.zeros_like(of_mean), (0, o.tokens)
        for some in o._slabs(o.tokens):
            for sequence in range(o.batch):
                for part in parts(some._operands(sequence), all_tokens, all_tokens):
                    of_heads[sequence] += part.by_head(kind).square().sum()
        return (of_mean / (of_heads / o.heads)).masked_fill(of_heads == 0, 1.0)

    def discretized(self) -> dict[str, Tensor]:
        """See `Operator.discretized`: Ā, the decay α."""
        return {"A_bar": self.log_decay.exp()}

    def _run(
        self,
        u: Float[Tensor, "batch token head headdim"],
        state: Float[Tensor, "batch head headdim state"] | None = None,
    ) -> Run:
        """Run the recurrence of all heads for β v = u, from a state."""
        o = self.select_heads(range(self.heads))
        q, k, beta, log_decay, u = (x.movedim(2, 1) for x in (o.q, o.k, o.beta, o.log_decay, u))
        return run_delta_rule(q, k, beta, log_decay, u, state)

    def _operands(self, sequence: int) -> Operands:
        """The operands of one sequence of an operator where every head has its own q and k."""
        arrays = (self.q, self.k, self.beta, self.log_decay)
        return Operands(*(x[sequence].movedim(1, 0) for x in arrays))

    def _slabs(self, tokens: int) -> Iterator["DeltaRule"]:
        """Its heads, as many at a time as fit in memory with this many tokens. Each has its own q and k."""
        entries = _ENTRIES["cuda" if self.beta.is_cuda else "cpu"]
        count = max(1, entries // max(1, tokens * self.q.shape[3]))
        for heads in torch.arange(self.heads).split(count):
            yield self.select_heads(heads.tolist())


def _no_writes(
    o: DeltaRule, state: Float[Tensor, "batch head headdim state"]
) -> Float[Tensor, "batch token head headdim"]:
    """β v of tokens that write nothing."""
    return o.beta.new_zeros(o.batch, o.tokens, o.heads, state.shape[2])
