"""A layer that `recording` recorded, as figures read a stored one: the batch's sequences are its prompts."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from ssmlens.errors import UsageError
from ssmlens.names import ATTENTION, FINITE, MAMBA, MAP, MASK
from ssmlens.scan import hidden_attention

_PER_TOKEN = ("delta", "B", "C", "log_decay")


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
        return {"kind": self.kind, **({} if conv is None else {"d_conv": conv.shape[1]})}

    @cached_property
    def kind(self) -> str:
        """`names.MAMBA`, or `names.ATTENTION` for softmax attention."""
        return ATTENTION if hasattr(self._record, "attention_map") else MAMBA

    @property
    def maps(self) -> tuple[str, ...]:
        """Which of `names.MAPS` it has."""
        return (MAP,) if self.kind == ATTENTION else (MAP, MASK)

    @property
    def heads(self) -> int:
        """Heads that own a matrix."""
        return 0 if self.kind == ATTENTION else self._record.operands.heads

    @property
    def batch(self) -> int:
        """Number of sequences."""
        if self.kind == ATTENTION:
            return self._record.attention_map.shape[0]
        return self._record.operands.batch

    def length(self, prompt: int) -> int:
        """Tokens of a sequence, padding among them. Raises UsageError where there is none of that number."""
        if not 0 <= prompt < self.batch:
            raise UsageError(f"prompt {prompt} is out of range: 0..{self.batch - 1}")
        if self.kind == ATTENTION:
            return self._record.attention_map.shape[1]
        return self._record.operands.tokens

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
        if name in _PER_TOKEN and prompt is not None:
            array = array[prompt]
        return _numpy(array)

    def attention_map(self, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """Mean of M over heads; of softmax attention, of its weights."""
        if self.kind == ATTENTION:
            return _numpy(self._record.attention_map[prompt])
        return _numpy(hidden_attention.attention_map(self._sequence(prompt))[0])

    def attention_mask(self, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """Mean of the decay over heads and states."""
        return _numpy(hidden_attention.attention_mask(self._sequence(prompt))[0])

    def channel_map(self, channel: int, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """One head's M."""
        return _numpy(hidden_attention.channel_maps(self._sequence(prompt), [channel])[0, 0])

    def _sequence(self, prompt: int) -> Any:
        self.length(prompt)
        return self._record.operands.sequence(prompt).only_maps()

    @cached_property
    def _arrays(self) -> dict[str, torch.Tensor]:
        if self.kind == ATTENTION:
            return {}
        operands = self._record.operands
        named = {name: getattr(operands, name) for name in (*_PER_TOKEN, "A")}
        return {**self._weights, **{n: a for n, a in named.items() if a is not None}}

    @cached_property
    def _weights(self) -> dict[str, torch.Tensor]:
        if self.kind == ATTENTION:
            return {}
        site = self._record.call.site
        return dict(site.adapter.weights(site.module).named())


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
