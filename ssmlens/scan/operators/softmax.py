"""Softmax attention: M = softmax(q kᵀ). A file stores only the mean over heads.

The weights come from the model's output (`SoftmaxWeights`), or are computed from queries and keys, one head at a time
(`SoftmaxScores`).
"""

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.names import HEAD, HEADDIM, KEY, MAP, PROMPT, QUERY, TOKEN
from ssmlens.scan.operator import Operator, Span, register, scan_dtype


@register
class Softmax(Operator):
    """The weights of each query on the keys, for every head. A row sums to 1."""

    kind: ClassVar[str] = "softmax"
    maps: ClassVar[tuple[str, ...]] = (MAP,)
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    stored: ClassVar[bool] = False

    @property
    def quantities(self) -> tuple[str, ...]:
        """See `Operator.quantities`. Without `gate`, which here is an MLP's output beside the heads and no gate."""
        return tuple(name for name in super().quantities if name != "gate")

    @abstractmethod
    def head(self, head: int) -> Float[Tensor, "batch query key"]:
        """The weights of one head, in float32 or wider."""

    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.__call__`: each query's weighted sum of the values x."""
        return torch.stack([self.head(h).to(x.dtype) @ x[:, :, h] for h in range(self.heads)], 2)

    def bare(self) -> "Softmax":
        """See `Operator.bare`. `head` converts to `scan_dtype`, one head at a time."""
        return dataclasses.replace(self, x=None, D=None, gate=None, surroundings=None)

    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """See `Operator.matrix`."""
        shape = queries[1] - queries[0], keys[1] - keys[0]
        out = self.like.new_empty(self.batch, len(heads), *shape, dtype=scan_dtype(self.like))
        for n, head in enumerate(heads):
            out[:, n] = self.head(head)[:, slice(*queries), slice(*keys)]
        return out

    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """See `Operator.diagonal`."""
        return torch.stack([self.head(h).diagonal(dim1=1, dim2=2) for h in range(self.heads)], 2)

    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """See `Operator.means`."""
        self.require(kinds)
        total = self.head(0)[:, slice(*queries), slice(*keys)].clone()
        for head in range(1, self.heads):
            total += self.head(head)[:, slice(*queries), slice(*keys)]
        return (total / self.heads).unsqueeze(1).expand(-1, len(kinds), -1, -1)

    def probe(
        self, vector: Float[Tensor, "batch token"]
    ) -> dict[str, Float[Tensor, "batch token"]]:
        """See `Operator.probe`: the mean over heads of M_h times the vector."""
        return {MAP: self(vector[:, :, None, None].expand(-1, -1, self.heads, 1)).mean((2, 3))}

    def agreement(self, kind: str = MAP, sample: int = 64) -> Float[Tensor, " batch"]:
        """See `Operator.agreement`. Uses all heads."""
        all_tokens = (0, self.tokens)
        mean = self.means((kind,), all_tokens, all_tokens).square().sum((1, 2, 3))
        return mean / sum(self.head(h).square().sum((1, 2)) for h in range(self.heads)) * self.heads


def visible(
    tokens: int,
    causal: bool,
    real: Shaped[Tensor, "batch token"] | None,
    device: torch.device | None = None,
) -> Bool[Tensor, "#batch query key"] | None:
    """The keys that each query sees: itself and real tokens; if `causal`, only those before it. None: all."""
    if real is None and not causal:
        return None
    mask = torch.ones(1, tokens, tokens, dtype=torch.bool, device=device)
    if causal:
        mask = mask.tril()
    if real is not None:
        itself = torch.eye(tokens, dtype=torch.bool, device=device)
        mask = mask & (real.bool().unsqueeze(1) | itself)
    return mask


@dataclasses.dataclass(frozen=True, repr=False)
class SoftmaxWeights(Softmax):
    """Weights from the model's output.

    Attributes:
        weights: The weights as the model returned them, after any dropout.
    """

    weights: Float[Tensor, "batch head query key"]

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"weights": (PROMPT, HEAD, QUERY, KEY)}

    @property
    def like(self) -> Tensor:
        """See `Operator.like`."""
        return self.weights

    @property
    def is_causal(self) -> bool:
        """See `Operator.is_causal`: no weight above the diagonal."""
        return self._none_ahead

    @functools.cached_property
    def _none_ahead(
        self,
    ) -> bool:  # cached: it reads every weight, and is used for each block of rows
        heads = (self.weights[:, head].triu(1) for head in range(self.heads))
        return not any(bool(above.nan_to_num(0).any()) for above in heads)

    def head(self, head: int) -> Float[Tensor, "batch query key"]:
        """See `Softmax.head`."""
        return self.weights[:, head].to(scan_dtype(self.weights))

    def between(self, first: int, end: int) -> "SoftmaxWeights":
        """See `Operator.between`. Cuts the axes of queries and of keys."""
        cut = super().between(first, end)
        return dataclasses.replace(cut, weights=self.weights[:, :, first:end, first:end])

    def sequence(self, index: int, length: int | None = None) -> "SoftmaxWeights":
        """See `Operator.sequence`.

        Raises:
            UsageError: A token before `length` has a weight on one after it: the attention is not causal, and saw
                padding.
        """
        if length is not None and bool(
            self.weights[index, :, :length, length:].nan_to_num(0).any()
        ):
            raise UsageError(
                "its attention is not causal, so that tokens see the padding of shorter prompts; "
                "take prompts of one length"
            )
        return super().sequence(index, length)


@dataclasses.dataclass(frozen=True, repr=False)
class SoftmaxScores(Softmax):
    """Weights computed from queries and keys, one head in memory at a time.

    Attributes:
        q: Queries.
        k: Keys. Shared keys are repeated for each head.
        scale: Factor of the scores q·k.
        causal: Whether a token sees only itself and earlier tokens.
        real: 1 at real tokens, 0 at padding. A padding token is seen only by itself. None: all are real.
    """

    q: Float[Tensor, "batch token head head_dim"]
    k: Float[Tensor, "batch token head head_dim"]
    scale: float = 1.0
    causal: bool = True
    real: Shaped[Tensor, "batch token"] | None = None

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "q": (PROMPT, TOKEN, HEAD, HEADDIM),
        "k": (PROMPT, TOKEN, HEAD, HEADDIM),
        "real": (PROMPT, TOKEN),
    }

    @property
    def like(self) -> Tensor:
        """See `Operator.like`."""
        return self.q

    @property
    def weights(self) -> Float[Tensor, "batch head query key"]:
        """The weights of all heads."""
        return torch.stack([self.head(head) for head in range(self.heads)], dim=1)

    @property
    def is_causal(self) -> bool:
        """See `Operator.is_causal`."""
        return self.causal

    def head(self, head: int) -> Float[Tensor, "batch query key"]:
        """See `Softmax.head`."""
        wide = scan_dtype(self.q)
        scores = self.q[:, :, head].to(wide) @ self.k[:, :, head].to(wide).mT * self.scale
        mask = visible(self.tokens, self.causal, self.real, scores.device)
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(2)

    def sequence(self, index: int, length: int | None = None) -> "SoftmaxScores":
        """See `Operator.sequence`. Raises UsageError for a padded sequence whose attention is not causal."""
        if not self.causal and length is not None and length < self.tokens:
            raise UsageError(
                "its attention is not causal, so that tokens see the padding of shorter prompts; "
                "take prompts of one length"
            )
        return super().sequence(index, length)
