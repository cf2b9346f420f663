"""Softmax attention: M = softmax(q kᵀ), which a file keeps only as its mean."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.names import HEAD, KEY, MAP, PROMPT, QUERY
from ssmlens.scan.operator import Operator, Span, register, scan_dtype


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Softmax(Operator):
    """The weights that each query shares out over the keys, for every head.

    Attributes:
        weights: As the model puts them out; each row sums to 1.
    """

    weights: Float[Tensor, "batch head query key"]

    kind: ClassVar[str] = "softmax"
    maps: ClassVar[tuple[str, ...]] = (MAP,)
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"weights": (PROMPT, HEAD, QUERY, KEY)}
    stored: ClassVar[bool] = False

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.weights.shape[0]

    @property
    def tokens(self) -> int:
        """Length of the sequences."""
        return self.weights.shape[2]

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.weights.shape[1]

    @property
    def like(self) -> Tensor:
        """See `Operator.like`."""
        return self.weights

    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """See `Operator.__call__`: each query's weighted sum of the values."""
        mixed = self.weights.to(x.dtype) @ x.transpose(1, 2)
        return mixed.transpose(1, 2)

    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """See `Operator.matrix`."""
        return self.weights[:, list(heads), slice(*queries), slice(*keys)].to(scan_dtype(self.like))

    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """See `Operator.diagonal`."""
        return self.weights.diagonal(dim1=2, dim2=3).mT

    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """See `Operator.means`."""
        here = self.weights[:, :, slice(*queries), slice(*keys)]
        mean = here.mean(1, dtype=scan_dtype(self.like))
        return mean.unsqueeze(1).expand(-1, len(kinds), -1, -1)

    def probe(self, vector: Float[Tensor, "batch token"]) -> dict[str, Float[Tensor, "batch token"]]:
        """See `Operator.probe`: every head mixes the vector, then the mean."""
        return {MAP: self(vector[:, :, None, None].expand(-1, -1, self.heads, 1)).mean((2, 3))}

    def agreement(self, kind: str = MAP, sample: int = 64) -> Float[Tensor, " batch"]:
        """See `Operator.agreement`. All heads are read."""
        mean = self.weights.mean(1, dtype=scan_dtype(self.like)).square().sum((1, 2))
        return mean / self.weights.to(mean.dtype).square().sum((2, 3)).mean(1)

    def sequence(self, index: int, length: int | None = None) -> "Softmax":
        """See `Operator.sequence`.

        Raises:
            UsageError: A token before `length` looks at one after it: the sequence was padded, and is not causal.
        """
        if length is not None and bool(self.weights[index, :, :length, length:].any()):
            raise UsageError(
                "its attention is not causal, so that tokens see the padding of shorter prompts; "
                "take prompts of one length"
            )
        return super().sequence(index, length)
