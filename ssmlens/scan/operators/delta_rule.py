"""The delta rule: DeltaNet, gated DeltaNet (one decay a head) and Kimi delta attention (one a key component)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.names import ERASE, GROUP, HEAD, MAP, MASK, PROMPT, STATE, TOKEN
from ssmlens.scan.delta_rows import rows
from ssmlens.scan.operator import Operator, Self, Span, register


@register
@dataclass(frozen=True)
class DeltaRule(Operator):
    """Operands of S_t = α_t S_{t−1} + β_t (v_t − α_t S_{t−1} k_t) k_tᵀ, o_t = S_t q_t; `x` is v.

    The decay comes before the erase (Yang, Kautz & Hatamizadeh 2024, arXiv 2412.06464). A vector α scales the
    components of the key's side of S (Kimi Linear, arXiv 2510.26692). With L[i,j] = Π_{j<m≤i} α_m the matrix is

        M = tril(Q Kᵀ ∘ L) · (I + E)⁻¹ · diag(β),    E = diag(β) · strictly_lower(K Kᵀ ∘ L),

    where a vector α stands inside the products: Σ_n q_i[n] L[i,j,n] k_j[n].

    Its maps are means over heads: "map" of M; "mask" of L (over key components too); "erase" of (I + E)⁻¹ − I, whose
    entry (i, j) is how much of token j's β v the write at token i takes back.

    Attributes:
        q: Queries after convolution, SiLU, L2 norm and the scale d_k^(−1/2).
        k: Keys after convolution, SiLU and L2 norm.
        beta: Strength of each write.
        log_decay: log α ≤ 0, −∞ where a token forgets everything before it; 0 without decay. One component: the
            same decay for all of a key's.
    """

    q: Float[Tensor, "batch token group state"]
    k: Float[Tensor, "batch token group state"]
    beta: Float[Tensor, "batch token head"]
    log_decay: Float[Tensor, "batch token head #state"]

    kind = "delta_rule"
    maps = (MAP, MASK, ERASE)
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
            raise ValueError(f"q is {tuple(self.q.shape)} and k {tuple(self.k.shape)}: one shape")
        if self.beta.shape[:2] != self.q.shape[:2]:
            raise ValueError("beta and q must have the same prompts and tokens")
        if self.log_decay.shape[:3] != self.beta.shape:
            raise ValueError("log_decay and beta must have the same prompts, tokens and heads")
        if self.log_decay.shape[3] not in (1, self.q.shape[3]):
            raise ValueError(
                f"log_decay has {self.log_decay.shape[3]} components and keys have {self.q.shape[3]}: "
                "it must have as many, or one"
            )
        if self.beta.shape[2] % max(1, self.q.shape[2]):
            raise ValueError(
                f"{self.beta.shape[2]} heads do not divide over {self.q.shape[2]} groups of q and k"
            )

    @classmethod
    def from_arrays(cls: type[Self], arrays: Mapping[str, Tensor]) -> Self:
        """The operator made of these arrays; a last axis of one may be missing.

        Raises:
            ValueError: The arrays do not fit together.
        """
        whole: dict[str, Any] = {
            name: array.unsqueeze(-1) if array.ndim == len(cls.axes[name]) - 1 else array
            for name, array in arrays.items()
        }
        return cls(**whole)

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.beta.shape[0]

    @property
    def tokens(self) -> int:
        """Length of the sequences."""
        return self.beta.shape[1]

    @property
    def heads(self) -> int:
        """Number of value heads."""
        return self.beta.shape[2]

    @property
    def like(self) -> Tensor:
        """β: results have its device, and `scan_dtype` of it."""
        return self.beta

    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """M x for every head, by the recurrence."""
        q, k, beta, log_decay = self._by_head(range(self.heads))
        x = x.to(beta).movedim(1, 2)
        state = x.new_zeros(*x.shape[:2], x.shape[3], q.shape[3])
        outputs = [x[:, :, :0]]
        for t in range(self.tokens):
            state = log_decay[:, :, t, None].exp() * state
            written = beta[:, :, t, None] * (x[:, :, t] - (state @ k[:, :, t, :, None]).squeeze(-1))
            state = state + written.unsqueeze(-1) * k[:, :, t, None]
            outputs.append((state @ q[:, :, t, :, None]).mT)
        return torch.cat(outputs, dim=2).movedim(2, 1)

    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """M of some heads on a rectangle of queries and keys."""
        self._check(queries, keys)
        return rows(*self._by_head(heads), queries, keys).map

    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """M[i, i] = β_i (q_i · k_i)."""
        o = self.bare()
        return o.beta * (o.q * o.k).sum(-1).repeat_interleave(o.heads // o.groups, dim=2)

    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """Some of `maps` on a rectangle."""
        self._check(queries, keys)
        found = rows(*self._by_head(range(self.heads)), queries, keys)
        return torch.stack([getattr(found, kind).mean(1) for kind in kinds], dim=1)

    def probe(
        self, vector: Float[Tensor, "batch token"]
    ) -> dict[str, Float[Tensor, "batch token"]]:
        """What each of `maps` does to a vector, by recurrence."""
        o = self.bare()
        v = vector.to(o.beta)[:, :, None]
        state = v.new_zeros(o.batch, o.heads, o.q.shape[3])
        passed = v.new_zeros(o.batch, o.heads, o.log_decay.shape[3])
        taken, decayed = [v[:, :0, 0]], [v[:, :0, 0]]
        _, k, beta, log_decay = o._by_head(range(o.heads))
        for t in range(o.tokens):
            step = log_decay[:, :, t].exp()
            state, passed = step * state, step * passed + v[:, t, :, None]
            erased = -beta[:, :, t] * (state * k[:, :, t]).sum(-1)
            state = state + (v[:, t] + erased).unsqueeze(-1) * k[:, :, t]
            taken.append(erased.mean(1, keepdim=True))
            decayed.append(passed.mean((1, 2)).unsqueeze(1))
        x = v.unsqueeze(3).expand(-1, -1, o.heads, 1)
        return {
            MAP: self(x).mean((2, 3)),
            MASK: torch.cat(decayed, dim=1),
            ERASE: torch.cat(taken, dim=1),
        }

    def agreement(self, kind: str = MAP, sample: int = 64) -> Float[Tensor, " batch"]:
        """How much of its heads' energy a map keeps: ‖mean over heads‖² / mean ‖head‖², in [0, 1]."""
        everything = (0, self.tokens)
        found = rows(*self._by_head(self._evenly_spaced_heads(sample)), everything, everything)
        each = getattr(found, kind)
        return each.mean(1).square().sum((1, 2)) / each.square().sum((2, 3)).mean(1)

    def discretized(self) -> dict[str, Tensor]:
        """Ā, the decay α."""
        return {"A_bar": self.log_decay.exp()}

    def _evenly_spaced_heads(self, sample: int) -> list[int]:
        """About `sample` of the heads, as many of every group."""
        wide = self.heads // max(1, self.groups)
        count = min(wide, max(1, sample // max(1, self.groups)))
        return [g * wide + h * wide // count for g in range(self.groups) for h in range(count)]

    def _by_head(self, heads: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, β and log α of some heads, [batch head token ...], in the scan's precision."""
        o = self.bare().select_heads(heads)
        q, k, beta, log_decay = (x.movedim(2, 1) for x in (o.q, o.k, o.beta, o.log_decay))
        return q, k, beta, log_decay

    def _check(self, queries: Span, keys: Span) -> None:
        for name, (first, end) in (("queries", queries), ("keys", keys)):
            if not 0 <= first <= end <= self.tokens:
                raise UsageError(
                    f"{name} from {first} to before {end} are out of range: there are {self.tokens} tokens"
                )
