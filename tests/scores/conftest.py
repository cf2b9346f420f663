"""A capture in memory, with the reader's interface and nothing of its code."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from ssmlens.names import FINITE, PROMPT
from ssmlens.store.schema import LAYER_ARRAYS


@dataclasses.dataclass
class FakeLayer:
    index: int
    arrays: dict[str, np.ndarray]
    length: np.ndarray
    state: str = FINITE
    attributes: dict = dataclasses.field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def read(self, name: str, prompt: int | None = None) -> np.ndarray:
        array = self.arrays[name]
        if prompt is None:
            return array
        axes = LAYER_ARRAYS[name]
        assert axes[0] == PROMPT
        length = int(self.length[prompt])
        cut = tuple(
            slice(length if axis in ("query", "key", "token", "lag") else None) for axis in axes
        )
        return array[prompt][cut[1:]]


@dataclasses.dataclass
class FakeCapture:
    layer_list: list[FakeLayer]
    length: np.ndarray
    prompt_kinds: list[str]
    target: np.ndarray | None = None
    strings: list[list[str]] | None = None
    closure_tolerance: float = 1e-4

    @property
    def layers(self) -> list[int]:
        return [layer.index for layer in self.layer_list]

    def token_strings(self, prompt: int) -> list[str]:
        if self.strings is None:
            return ["a"] * int(self.length[prompt])
        return self.strings[prompt]

    def layer(self, index: int) -> FakeLayer:
        (layer,) = [layer for layer in self.layer_list if layer.index == index]
        return layer


@pytest.fixture(scope="session")
def make_capture() -> Callable[..., FakeCapture]:
    """make_capture(layers, kinds=..., length=..., target=..., strings=...): layers are dicts of arrays.

    A layer's entries `finite`, `attributes` and `index` (else its place) are set aside.
    """

    def make(layers, *, kinds=("text",), length=None, target=None, strings=None) -> FakeCapture:
        maps = [m for x in layers for k, m in x.items() if k.startswith("attention_")]
        wide = maps[0].shape[1] if maps else 8
        lengths = np.array([wide] * len(kinds) if length is None else length)
        made = []
        for place, entries in enumerate(layers):
            entries = dict(entries)
            made.append(
                FakeLayer(
                    index=entries.pop("index", place),
                    state=entries.pop("finite", FINITE),
                    attributes=entries.pop("attributes", {}),
                    arrays=entries,
                    length=lengths,
                )
            )
        return FakeCapture(made, lengths, list(kinds), target, strings)

    return make
