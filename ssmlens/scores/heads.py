"""Which heads are most attention-like: the scores of maps, of each head's own map and mask.

A mixer's heads are made from its stored operands. Of softmax attention a file keeps what map scores read of each head's
map (`names.MAP_STATISTICS`, as `head_…`), and no map.
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
"""Mixers of more heads are refused: each head's whole map is made."""

_KIND_OF = {name: kind for kind, name in MAP_ARRAYS.items() if kind in (MAP, MASK)}
# What a head has of its layer beside its own maps.
_OF_LAYER = ("conv", CLOSURE, MAP_CLOSURE, MAP_ROUNDING)
_OF_ATTENTION = {name: f"head_{name}" for name in MAP_STATISTICS}


class _Name(NamedTuple):
    """Which head: of which block, and of what there."""

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
    """Order heads by scores of their own maps, the most attention-like first: those of mixers and of softmax attention.

    Softmax attention has no mask, so none of a mask's scores.

    Args:
        capture: An open capture.
        by: A score of maps, or several to order by their mean rank. None: `copy_score` or `induction_score` where the
            prompts have targets, else the mean rank of `mask_ones` and `diagonal_sharpness`.
        layers: Whose heads. None: of all layers.
        top: Keep only this many heads; None for all.
        progress: Called as progress(heads done, heads) after each head.

    Raises:
        UsageError: A layer is not in the capture, is softmax attention of a capture that keeps nothing of its heads
            (captures of earlier versions), or has more than `MOST_HEADS` of them; a prompt is too long for whole maps;
            a score is unknown, not of maps, or has no value here.
    """
    names = list(of_maps([by] if isinstance(by, str) else by or ()))
    longest = int(np.max(capture.length))
    if longest > LARGEST_WHOLE_MAP:
        raise UsageError(
            f"heads are ranked by whole maps, of prompts of up to {LARGEST_WHOLE_MAP} tokens: one has {longest}"
        )
    heads, left_out = _heads(capture, layers)
    shown = dict.fromkeys([*names, *of_maps([*TARGETED, *STRUCTURAL], skip=True)])
    scores = compute(_Heads(capture, heads), shown, progress=progress)
    named = zip((BLOCK, HEAD, OPERATOR), zip(*heads, strict=True), strict=True)
    scores = scores.assign_coords({name: (LAYER, list(values)) for name, values in named})
    targeted = [name for name in TARGETED if scores[name].notnull().any()]
    order = names or targeted[:1] or list(of_maps(STRUCTURAL, skip=True))
    return rank(scores, order, top).with_notes(left_out)


def of_maps(names: Sequence[str], *, skip: bool = False) -> list[str]:
    """Those of these scores that a single head can have. Raises UsageError for another one, unless they are skipped."""
    able = [name for name in names if SCORES[name].reads in ("maps", "targets")]
    for name in names:
        if name not in able and not skip:
            known = ", ".join(n for n in SCORES if SCORES[n].reads in ("maps", "targets"))
            raise UsageError(f"{name} is a score of whole layers; heads have {known}")
    return able


def _heads(capture: Capture, layers: Sequence[int] | None) -> tuple[list[_Name], list[str]]:
    """The heads that are ranked, layer by layer, and a note on those that are left out."""
    heads: list[_Name] = []
    without: list[str] = []
    for index in capture.layers if layers is None else layers:
        layer = capture.layer(index)
        if layer.has_operands:
            _require_few(layer)
            heads += [_Name(index, head, layer.operator) for head in range(layer.heads)]
        if _has_attention(layer):
            stored = next((name for name in _OF_ATTENTION.values() if name in layer), None)
            count = 0 if stored is None else layer.shape(stored)[1]
            heads += [_Name(index, head, Softmax.kind) for head in range(count)]
            without += [] if count else [str(index)]
            if not count and not layer.has_operands and layers is not None:
                raise UsageError(_not_kept([str(index)]))
    if not heads:
        raise UsageError(_not_kept(without))
    return heads, [f"left out: {_not_kept(without)}"] if without else []


def _has_attention(layer: Layer) -> bool:
    """Whether softmax attention is stored of it, alone or beside a mixer."""
    return layer.operator == Softmax.kind or "softmax_attention_map" in layer


def _not_kept(layers: Iterable[str]) -> str:
    return (
        f"heads of softmax attention (layer {', '.join(layers)}): the capture keeps their mean map alone, as earlier "
        "versions did; capture again to rank them"
    )


def _require_few(layer: Layer) -> None:
    if layer.heads > MOST_HEADS:
        raise UsageError(
            f"layer {layer.index} has {layer.heads} heads (in Mamba-1 each channel is one), and heads are ranked "
            f"where a layer has at most {MOST_HEADS}: name other `layers`, or rank layers"
        )


class _Heads:
    """A capture's heads as a capture of layers, numbered through; one layer's operands are held at a time."""

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
        self._beside = layer.has_operands  # then what else the layer has is of its mixer
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
    """One head of a mixer as a layer, whose map and mask are the head's own."""

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
        own = self._operands[prompt].select_heads([self._head])
        whole = 0, own.tokens
        if name == "delta":
            return own.arrays()["delta"][0].numpy()
        if _KIND_OF[name] == MAP:
            return own.matrix([0], whole, whole)[0, 0].numpy()
        return own.means((MASK,), whole, whole)[0, 0].numpy()
