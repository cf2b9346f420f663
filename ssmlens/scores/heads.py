"""Rank heads by how attention-like they are: the map scores of each head's own map and mask.

Maps of a mixer's heads are computed from its stored operands. For softmax attention a file stores only the statistics
of each head's map that map scores need (`names.MAP_STATISTICS`, as `head_…`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ssmlens.errors import UsageError
from ssmlens.names import (
    ATTENTION,
    LARGEST_WHOLE_MAP,
    LAYER,
    MAP,
    MAP_ARRAYS,
    MAP_STATISTICS,
    MASK,
)
from ssmlens.scan.operator import Operator
from ssmlens.scan.operators.softmax import Softmax
from ssmlens.scores.order import BLOCK, HEAD, OPERATOR, STRUCTURAL, TARGETED, rank
from ssmlens.scores.ranking import Ranking
from ssmlens.scores.score import SCORES
from ssmlens.scores.table import compute
from ssmlens.store.layer import Layer
from ssmlens.store.layer_like import LayerLike
from ssmlens.store.reader import Capture
from ssmlens.store.verdict import CLOSURE, MAP_CLOSURE, MAP_ROUNDING

MOST_HEADS = 256
"""Mixers with more heads are refused: each head's whole map is computed."""

_KIND_OF = {name: kind for kind, name in MAP_ARRAYS.items() if kind in (MAP, MASK)}
# The layer's arrays that its heads share.
_OF_LAYER = ("conv", CLOSURE, MAP_CLOSURE, MAP_ROUNDING)
_OF_ATTENTION = {name: f"head_{name}" for name in MAP_STATISTICS}


class _Name(NamedTuple):
    """A head: its block, its number and its operator."""

    block: int
    head: int
    operator: str


def rank_heads(
    capture: Capture,
    by: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    top: int | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Rank heads of mixers and of softmax attention by scores of their own maps, the most attention-like first.

    Softmax attention has no mask, so it has no mask scores.

    Args:
        capture: An open capture.
        by: A map score, or several to order by their mean rank. None: `copy_score` or `induction_score` if the prompts
            have targets, else the mean rank of `mask_ones` and `diagonal_sharpness`.
        layers: The layers to take heads from. None: all.
        top: Keep only this many heads; None for all.
        progress: Called with (heads done, heads) after each head.

    Raises:
        UsageError: A layer is not in the capture, is softmax attention without stored head statistics (captures of
            earlier versions), or has more than `MOST_HEADS` heads; a prompt is too long for whole maps; a score is
            unknown, not a map score, or has no value here.
    """
    names = list(map_scores([by] if isinstance(by, str) else by or ()))
    longest = int(np.max(capture.length))
    if longest > LARGEST_WHOLE_MAP:
        raise UsageError(
            f"heads are ranked by whole maps, of prompts of up to {LARGEST_WHOLE_MAP} tokens: one has {longest}"
        )
    heads, left_out = _heads(capture, layers)
    columns = dict.fromkeys([*names, *map_scores([*TARGETED, *STRUCTURAL], skip=True)])
    scores = compute(_Heads(capture, heads), columns, progress=progress)
    named = zip((BLOCK, HEAD, OPERATOR), zip(*heads, strict=True), strict=True)
    scores = scores.assign_coords({name: (LAYER, list(values)) for name, values in named})
    targeted = [name for name in TARGETED if scores[name].notnull().any()]
    order = names or targeted[:1] or list(map_scores(STRUCTURAL, skip=True))
    return rank(scores, order, top).with_notes(left_out)


def map_scores(names: Sequence[str], *, skip: bool = False) -> list[str]:
    """Select the scores that a single head can have. Raises UsageError for any other, unless `skip` is set."""
    selected = [name for name in names if SCORES[name].reads in ("maps", "targets")]
    for name in names:
        if name not in selected and not skip:
            known = ", ".join(n for n in SCORES if SCORES[n].reads in ("maps", "targets"))
            raise UsageError(f"{name} is a score of whole layers; heads have {known}")
    return selected


def _heads(capture: Capture, layers: Sequence[int] | None) -> tuple[list[_Name], list[str]]:
    """The heads to rank, layer by layer, and a note on those left out."""
    heads: list[_Name] = []
    missing: list[str] = []
    for index in capture.layers if layers is None else layers:
        layer = capture.layer(index)
        if layer.has_operands:
            _require_few(layer)
            heads += [_Name(index, head, layer.operator) for head in range(layer.heads)]
        if _has_attention(layer):
            stored = next((name for name in _OF_ATTENTION.values() if name in layer), None)
            count = 0 if stored is None else layer.shape(stored)[1]
            heads += [_Name(index, head, Softmax.kind) for head in range(count)]
            missing += [] if count else [str(index)]
            if not count and not layer.has_operands and layers is not None:
                raise UsageError(_not_stored([str(index)]))
    if not heads:
        raise UsageError(_not_stored(missing))
    return heads, [f"left out: {_not_stored(missing)}"] if missing else []


def _has_attention(layer: Layer) -> bool:
    """Whether softmax attention is stored, alone or beside a mixer."""
    return layer.operator == Softmax.kind or "softmax_attention_map" in layer


def _not_stored(layers: Iterable[str]) -> str:
    return (
        f"heads of softmax attention (layer {', '.join(layers)}): the capture has only their mean map, as in earlier "
        "versions; capture again to rank them"
    )


def _require_few(layer: Layer) -> None:
    if layer.heads > MOST_HEADS:
        raise UsageError(
            f"layer {layer.index} has {layer.heads} heads (in Mamba-1 each channel is one), more than the {MOST_HEADS} "
            "that can be ranked: name other `layers`, or rank layers"
        )


class _Heads:
    """A capture's heads as a capture of layers, numbered consecutively; it holds one layer's operands at a time."""

    def __init__(self, capture: Capture, heads: Sequence[_Name]):
        self._capture, self._heads = capture, heads
        self._index: int | None = None
        self._operands: dict[int, Operator] = {}
        self.layers = range(len(heads))
        self.length, self.target = capture.length, capture.target
        self.prompt_kinds = capture.prompt_kinds
        self.closure_tolerance = capture.closure_tolerance

    def token_strings(self, prompt: int, /) -> Sequence[str]:
        return self._capture.token_strings(prompt)

    def layer(self, number: int, /) -> LayerLike:
        index, head, operator = self._heads[number]
        layer = self._capture.layer(index)
        if operator == Softmax.kind:
            return _AttentionHead(layer, head, number)
        if index != self._index:
            self._index, self._operands = index, {}
        return _MixerHead(layer, head, number, self._operands)


class _AttentionHead:
    """One head of softmax attention as a layer that has the statistics of its map."""

    def __init__(self, layer: Layer, head: int, number: int):
        self.index, self.state = number, layer.state
        self._layer, self._head = layer, head
        self._beside = layer.has_operands  # then the layer's other arrays belong to its mixer
        self.attributes: Mapping[str, object] = (
            {"kind": ATTENTION, "operator": Softmax.kind} if self._beside else layer.attributes
        )

    def __contains__(self, name: str) -> bool:
        if name in _OF_ATTENTION:
            return _OF_ATTENTION[name] in self._layer
        return name == CLOSURE and not self._beside and name in self._layer

    def read(self, name: str, prompt: int | None = None) -> np.ndarray:
        if name in _OF_ATTENTION:
            return self._layer.read(_OF_ATTENTION[name], prompt)[..., self._head, :]
        return self._layer.read(name, prompt)


class _MixerHead:
    """One head of a mixer as a layer that has the head's map and mask."""

    def __init__(self, layer: Layer, head: int, number: int, operands: dict[int, Operator]):
        self.index, self.state, self.attributes = number, layer.state, layer.attributes
        self._layer, self._head, self._operands = layer, head, operands

    def __contains__(self, name: str) -> bool:
        if name in _KIND_OF:
            return _KIND_OF[name] in self._layer.maps
        return name in (*_OF_LAYER, "delta") and name in self._layer

    def read(self, name: str, prompt: int | None = None) -> np.ndarray:
        if name in _OF_LAYER:
            return self._layer.read(name, prompt)
        assert prompt is not None
        if prompt not in self._operands:
            self._operands[prompt] = self._layer.operands(prompt)
        operands = self._operands[prompt].select_heads([self._head])
        tokens = 0, operands.tokens
        if name == "delta":
            return operands.arrays()["delta"][0].numpy()
        if _KIND_OF[name] == MAP:
            return operands.matrix([0], tokens, tokens)[0, 0].numpy()
        return operands.means((MASK,), tokens, tokens)[0, 0].numpy()
