"""A record of `recording` with the interface of a stored layer; the sequences of the batch are its prompts."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from ssmlens.errors import UsageError
from ssmlens.names import FINITE, PROMPT
from ssmlens.scan.operator import Operator
from ssmlens.store.schema import LOOKS_AHEAD


@runtime_checkable
class Record(Protocol):
    """The interface of a record (`ssmlens.recording`, then `rec[3]`)."""

    call: Any

    @property
    def layer(self) -> int:
        """Number of the layer."""
        ...


class RecordedLayer:
    """A record with the interface of a layer. Nothing is on disk, and everything is computed on demand.

    Args:
        record: The record.
        tokens: The tokens of each sequence as text; positions by default.

    Attributes:
        index: Number of the layer.
        digest: Empty: there is no file.
    """

    digest = ""
    state = FINITE

    def __init__(self, record: Record, tokens: Sequence[Sequence[str]] | None = None):
        self.index = record.layer
        self._record: Any = record
        self._tokens = tokens

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes that figures read from a stored layer."""
        conv = self._weights.get("conv")
        ahead = {} if self._operator.is_causal else {LOOKS_AHEAD: 1}
        taps = {} if conv is None else {"d_conv": conv.shape[1]}
        return {"operator": self.operator, **ahead, **taps}

    @property
    def operator(self) -> str:
        """Name of the operator that mixes the tokens."""
        return self._operator.kind

    @property
    def maps(self) -> tuple[str, ...]:
        """Its maps, out of `names.MAPS`."""
        return self._operator.maps

    @property
    def heads(self) -> int:
        """Number of heads with a matrix."""
        return self._operator.heads

    def length(self, prompt: int) -> int:
        """Return the tokens of a sequence, padding included. Raises UsageError if there is no such sequence."""
        if not 0 <= prompt < self._operator.batch:
            raise UsageError(f"prompt {prompt} is out of range: 0..{self._operator.batch - 1}")
        return self._operator.tokens

    def token_strings(self, prompt: int) -> list[str]:
        """Return the tokens as text, or positions. Raises UsageError if their number does not fit the sequence."""
        length = self.length(prompt)
        if self._tokens is None:
            return [str(position) for position in range(length)]
        tokens = list(self._tokens[prompt])
        if len(tokens) != length:
            raise UsageError(
                f"tokens has {len(tokens)} entries for a sequence of {length} tokens: give one for each"
            )
        return tokens

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array over all sequences."""
        return tuple(self._arrays[name].shape)

    def read(self, name: str, prompt: int | None = None) -> np.ndarray:
        """Return an operand of a sequence, or a weight. Raises KeyError if the layer has none of that name."""
        array = self._arrays[name]
        by_prompt = PROMPT in self._operator.axes.get(name, ())
        return _numpy(array[prompt] if by_prompt and prompt is not None else array)

    def whole_map(self, kind: str, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """Return one of its `maps` over all tokens."""
        everything = (0, self.length(prompt))
        return self.map_tile((kind,), everything, everything, prompt)[0]

    def map_tile(
        self,
        kinds: Sequence[str],
        queries: tuple[int, int],
        keys: tuple[int, int],
        prompt: int = 0,
    ) -> Float[np.ndarray, "kind query key"]:
        """Return a rectangle of some of its `maps`."""
        with torch.no_grad():
            return _numpy(self._sequence(prompt).means(kinds, queries, keys)[0])

    def channel_map(
        self,
        channel: int,
        prompt: int = 0,
        queries: tuple[int, int] | None = None,
        keys: tuple[int, int] | None = None,
    ) -> Float[np.ndarray, "query key"]:
        """Return one head's M, or a rectangle of it."""
        everything = (0, self.length(prompt))
        with torch.no_grad():
            sequence = self._sequence(prompt)
            return _numpy(
                sequence.matrix([channel], queries or everything, keys or everything)[0, 0]
            )

    @property
    def _operator(self) -> Operator:
        return self._record.operands

    def _sequence(self, prompt: int) -> Operator:
        self.length(prompt)
        return self._operator.sequence(prompt).bare()

    @cached_property
    def _arrays(self) -> dict[str, torch.Tensor]:
        return {**self._weights, **self._operator.arrays()}

    @cached_property
    def _weights(self) -> dict[str, torch.Tensor]:
        site = self._record.call.site
        return dict(site.adapter.weights(site.module).named())


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
