"""`Reading`: the values that a score may read, those of one layer and prompt, and only finite numbers."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from ssmlens.names import (
    FINITE,
    NONFINITE_INPUT,
    NONFINITE_OUTPUT,
    NONFINITE_WEIGHTS,
)
from ssmlens.scores import statistics
from ssmlens.store import schema
from ssmlens.store.layer_like import LayerLike
from ssmlens.store.separators import separators

_WHY_NOT_FINITE = {
    NONFINITE_WEIGHTS: "this layer has non-finite weights",
    NONFINITE_INPUT: "the layer's input is not finite: check the layers before it",
    NONFINITE_OUTPUT: "the layer's computation is not finite",
    FINITE: "though the layer is marked finite",
}


class NotApplicable(Exception):
    """A score has no value here; the message is the reason, stored beside the NaN."""


@runtime_checkable
class CaptureLike(Protocol):
    """The interface of a capture (`ssmlens.store`) that scores need."""

    @property
    def layers(self) -> Sequence[int]:
        """Block indices of the captured layers."""
        ...

    @property
    def length(self) -> np.ndarray:
        """Real length of each prompt, in tokens."""
        ...

    @property
    def target(self) -> np.ndarray | None:
        """[prompt, token]: the position that each query must copy from, -1 for none."""
        ...

    @property
    def prompt_kinds(self) -> Sequence[str]:
        """Kind of each prompt: "copy", "repeat", "text", ..."""
        ...

    def token_strings(self, prompt: int, /) -> Sequence[str]:
        """The prompt's real tokens as text."""
        ...

    @property
    def closure_tolerance(self) -> float:
        """The largest acceptable closure error."""
        ...

    def layer(self, index: int, /) -> LayerLike:
        """The layer of this block index."""
        ...


def is_softmax(layer: LayerLike) -> bool:
    """Whether the layer is softmax attention: it has only a map, the model's own weights."""
    return schema.is_softmax(layer.attributes)


class Reading:
    """One layer and prompt. Arrays are read, and statistics computed, once and on demand.

    Scores share them and must not write into them.

    Args:
        capture: An open capture.
        layer: One of its layers.
        prompt: Index of the prompt; None for scores that read weights only.
    """

    def __init__(self, capture: CaptureLike, layer: LayerLike, prompt: int | None = None):
        self._capture = capture
        self._layer = layer
        self._prompt = prompt
        self._arrays: dict[str, np.ndarray] = {}

    def has(self, name: str) -> bool:
        """Whether the layer has this array."""
        return name in self._layer

    def weight(self, name: str) -> Float[np.ndarray, "..."]:
        """A weight in float64. Raises NotApplicable when it is absent or not finite."""
        return self._finite(name, None).astype(np.float64)

    @property
    def is_reduced(self) -> bool:
        """Whether the layer has reduced maps instead of whole ones."""
        return self.has("attention_map_max") and not self.has("attention_map")

    def attribute(self, name: str) -> str:
        """An attribute of the layer as text, "" if it has none."""
        return str(self._layer.attributes.get(name, ""))

    def number(self, name: str) -> float:
        """The prompt's value in an array of one value per prompt; may be NaN."""
        assert self._prompt is not None, "a weight score has no prompt"
        return float(self._layer.read(name, self._prompt))

    def operand(self, name: str) -> Float[np.ndarray, "..."]:
        """One of the prompt's operands, cut to its length. Raises as `attention_map`."""
        return self._prompt_array(name)

    @property
    def log_decay(self) -> Float[np.ndarray, "..."]:
        """The prompt's log decay; −∞ at a token that forgets everything. Raises NotApplicable when absent or NaN."""
        return self._prompt_array("log_decay", finite=lambda array: np.isfinite(np.exp(array)))

    @cached_property
    def attention_map(self) -> Float[np.ndarray, "query key"]:
        """The prompt's whole map. Raises NotApplicable when absent, reduced, not finite, or of one token."""
        return self._prompt_array("attention_map")

    @cached_property
    def attention_mask(self) -> Float[np.ndarray, "query key"]:
        """The prompt's whole mask. Raises as `attention_map`."""
        return self._prompt_array("attention_mask")

    @cached_property
    def lag_energy(self) -> Float[np.ndarray, " lag"]:
        """Mean square of the map along each sub-diagonal, mean_i map[i, i−ℓ]². Raises as `attention_map`."""
        return self._statistic("lag_energy", lambda: statistics.energy_by_lag(self.attention_map))

    @property
    def looks_ahead(self) -> bool:
        """Whether the layer's tokens read later ones too: its maps are not lower triangles."""
        return schema.looks_ahead(self._layer.attributes)

    @cached_property
    def ahead_energy(self) -> Float[np.ndarray, " lag"]:
        """Mean square of the map along each diagonal above it, mean_i map[i, i+ℓ]². Raises as `attention_map`.

        0 at every ℓ > 0 if the layer does not look ahead.
        """
        if not self.looks_ahead:
            return np.where(np.arange(len(self.lag_energy)) > 0, 0.0, self.lag_energy)
        return self._statistic(
            "ahead_energy", lambda: statistics.energy_by_lag(self.attention_map.T)
        )

    @cached_property
    def row_magnitude(self) -> Float[np.ndarray, " query"]:
        """Magnitude of each row, Σ_j |map[i, j]|. Raises as `attention_map`."""
        return self._statistic(
            "row_magnitude", lambda: statistics.row_magnitude(self.attention_map)
        )

    @cached_property
    def target_magnitude(self) -> Float[np.ndarray, " query"]:
        """Magnitude on each query's target, |map[i, target_i]|, 0 without a target. Raises as `attention_map`."""
        return self._statistic(
            "target_magnitude",
            lambda: statistics.target_magnitude(self.attention_map, self.target),
        )

    @cached_property
    def previous_magnitude(self) -> Float[np.ndarray, " query"]:
        """Magnitude on the token before each query, |map[i, i − 1]|. Raises as `attention_map`."""
        return self._statistic(
            "previous_magnitude", lambda: statistics.previous_magnitude(self.attention_map)
        )

    @cached_property
    def reach(self) -> Float[np.ndarray, " query"]:
        """Distance in tokens that half of a late query's |map| reaches, −1 for others. Raises as `attention_map`."""
        return self._statistic("reach", lambda: statistics.reach(self.attention_map))

    @cached_property
    def first_magnitude(self) -> Float[np.ndarray, " query"]:
        """Magnitude on the first token, |map[i, 0]|. Raises as `attention_map`."""
        return self._statistic(
            "first_magnitude", lambda: statistics.first_magnitude(self.attention_map)
        )

    @cached_property
    def separator_magnitude(self) -> Float[np.ndarray, " query"]:
        """Magnitude on separators between the first token and the query. Raises as `attention_map`."""
        return self._statistic(
            "separator_magnitude",
            lambda: statistics.separator_magnitude(self.attention_map, self.separator),
        )

    @cached_property
    def mask_row_sum(self) -> Float[np.ndarray, " query"]:
        """How many tokens each query remembers, Σ_j mask[i, j]. Raises as `attention_map`."""
        return self._statistic("mask_row_sum", lambda: statistics.mask_row_sum(self.attention_mask))

    @cached_property
    def visible(self) -> Int[np.ndarray, " query"]:
        """How many tokens each query can look at: i + 1, or all of the prompt's where the layer looks ahead."""
        assert self._prompt is not None, "a weight score has no prompt"
        tokens = int(self._capture.length[self._prompt])
        return np.full(tokens, tokens) if self.looks_ahead else np.arange(1, tokens + 1)

    @property
    def first_lag(self) -> int:
        """The shortest lag past the convolution's reach: d_conv, or 1 without a convolution."""
        if "d_conv" in self._layer.attributes:
            return max(1, int(self._layer.attributes["d_conv"]))
        return self._layer.read("conv").shape[-1] if self.has("conv") else 1

    @property
    def prompt_kind(self) -> str:
        """The prompt's kind: "copy", "repeat", "text", ..."""
        assert self._prompt is not None, "a weight score has no prompt"
        return self._capture.prompt_kinds[self._prompt]

    @cached_property
    def separator(self) -> Bool[np.ndarray, " token"]:
        """Which of the prompt's tokens are separators (`ssmlens.store.separators`)."""
        assert self._prompt is not None, "a weight score has no prompt"
        return separators(self._capture.token_strings(self._prompt), self.prompt_kind)

    @property
    def target(self) -> Int[np.ndarray, " query"]:
        """The key that each query must attend to, -1 for none. Raises NotApplicable when all are -1."""
        assert self._prompt is not None, "a weight score has no prompt"
        target = self._capture.target
        length = int(self._capture.length[self._prompt])
        if target is None or not (target[self._prompt, :length] >= 0).any():
            raise NotApplicable("no query of the prompt has a target")
        return np.asarray(target[self._prompt, :length])

    def _statistic(
        self, name: str, compute: Callable[[], Float[np.ndarray, " _"]]
    ) -> Float[np.ndarray, " _"]:
        """A statistic of a map or a mask: as stored, or computed from the whole map."""
        if self.has(name):
            return self._prompt_array(name).astype(np.float64)
        if self.is_reduced:
            raise NotApplicable(f"its reduced maps were stored without {name}: capture it again")
        return compute()

    def _prompt_array(
        self, name: str, finite: Callable[[np.ndarray], np.ndarray] = np.isfinite
    ) -> Float[np.ndarray, "..."]:
        assert self._prompt is not None, "a weight score has no prompt"
        if self._capture.length[self._prompt] < 2:
            raise NotApplicable("a one-token prompt has no earlier tokens")
        return self._finite(name, self._prompt, finite)

    def _finite(
        self,
        name: str,
        prompt: int | None,
        finite: Callable[[np.ndarray], np.ndarray] = np.isfinite,
    ) -> Num[np.ndarray, "..."]:
        if name not in self._arrays:
            if not self.has(name):
                owner = "softmax attention" if is_softmax(self._layer) else "the layer"
                raise NotApplicable(f"{owner} has no {name}")
            self._arrays[name] = self._layer.read(name, prompt)
        array = self._arrays[name]
        if not finite(array).all():
            why = _WHY_NOT_FINITE.get(self._layer.state, self._layer.state)
            raise NotApplicable(f"{name} is not finite ({why})")
        return array
