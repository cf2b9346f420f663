"""A layer that `recording` recorded, as figures read a stored one: the batch's sequences are its prompts."""

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
    """What is asked of a record (`ssmlens.recording`, then `rec[3]`)."""

    call: Any

    @property
    def layer(self) -> int:
        """Block index."""
        ...


class RecordedLayer:
    """A record as figures read a layer; nothing of it is on a disk, and nothing is computed before it is asked for.

    Args:
        record: The record.
        tokens: The tokens of each sequence as text; their positions stand for themselves where absent.

    Attributes:
        index: Block index.
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
        """What a file would say of the layer, as far as figures ask."""
        conv = self._weights.get("conv")
        ahead = {} if self._operator.is_causal else {LOOKS_AHEAD: 1}
        taps = {} if conv is None else {"d_conv": conv.shape[1]}
        return {"operator": self.operator, **ahead, **taps}

    @property
    def operator(self) -> str:
        """What mixes its tokens, by its name."""
        return self._operator.kind

    @property
    def maps(self) -> tuple[str, ...]:
        """Which of `names.MAPS` it has."""
        return self._operator.maps

    @property
    def heads(self) -> int:
        """Heads that own a matrix."""
        return self._operator.heads

    def length(self, prompt: int) -> int:
        """Tokens of a sequence, padding among them. Raises UsageError where there is none of that number."""
        if not 0 <= prompt < self._operator.batch:
            raise UsageError(f"prompt {prompt} is out of range: 0..{self._operator.batch - 1}")
        return self._operator.tokens

    def token_strings(self, prompt: int) -> list[str]:
        """The tokens as text, or as positions. Raises UsageError where they are not as many as the sequence has."""
        length = self.length(prompt)
        if self._tokens is None:
            return [str(position) for position in range(length)]
        tokens = list(self._tokens[prompt])
        if len(tokens) != length:
            raise UsageError(
                f"tokens names {len(tokens)} tokens of a sequence that has {length}: name each"
            )
        return tokens

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, all sequences together."""
        return tuple(self._arrays[name].shape)

    def read(self, name: str, prompt: int | None = None) -> np.ndarray:
        """An operand of a sequence, or a weight. Raises KeyError where the layer has none of that name."""
        array = self._arrays[name]
        by_prompt = PROMPT in self._operator.axes.get(name, ())
        return _numpy(array[prompt] if by_prompt and prompt is not None else array)

    def whole_map(self, kind: str, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """One of its `maps`."""
        everything = (0, self.length(prompt))
        return self.map_tile((kind,), everything, everything, prompt)[0]

    def map_tile(
        self,
        kinds: Sequence[str],
        queries: tuple[int, int],
        keys: tuple[int, int],
        prompt: int = 0,
    ) -> Float[np.ndarray, "kind query key"]:
        """A rectangle of some of its `maps`."""
        with torch.no_grad():
            return _numpy(self._sequence(prompt).means(kinds, queries, keys)[0])

    def channel_map(
        self,
        channel: int,
        prompt: int = 0,
        queries: tuple[int, int] | None = None,
        keys: tuple[int, int] | None = None,
    ) -> Float[np.ndarray, "query key"]:
        """One head's M, or a rectangle of it."""
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
