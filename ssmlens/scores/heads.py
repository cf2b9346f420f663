"""Which heads are most attention-like: the scores of maps, of each head's own map and mask."""

from collections.abc import Callable, Sequence

import numpy as np

from ssmlens.errors import UsageError
from ssmlens.names import LARGEST_WHOLE_MAP, LAYER, MAP, MAP_ARRAYS, MASK
from ssmlens.scan.operator import Operator
from ssmlens.scores.order import BLOCK, HEAD, STRUCTURAL, TARGETED, rank
from ssmlens.scores.ranking import Ranking
from ssmlens.scores.score import SCORES
from ssmlens.scores.table import compute
from ssmlens.store.layer import Layer
from ssmlens.store.reader import Capture
from ssmlens.store.verdict import CLOSURE, MAP_CLOSURE, MAP_ROUNDING

MOST_HEADS = 256
"""Layers of more heads are refused: each head's whole map is made."""

_KIND_OF = {name: kind for kind, name in MAP_ARRAYS.items() if kind in (MAP, MASK)}
# What a head has of its layer beside its own maps.
_OF_LAYER = ("conv", CLOSURE, MAP_CLOSURE, MAP_ROUNDING)


def rank_heads(
    capture: Capture,
    by: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    top: int | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Order heads by scores of their own maps, made from the stored operands; the most attention-like first.

    Args:
        capture: An open capture.
        by: A score of maps, or several to order by their mean rank. None: `copy_score` or `induction_score` where the
            prompts have targets, else the mean rank of `mask_ones` and `diagonal_sharpness`.
        layers: Whose heads. None: of all layers but softmax attention, which is stored as its mean map alone.
        top: Keep only this many heads; None for all.
        progress: Called as progress(heads done, heads) after each head.

    Raises:
        UsageError: A layer is not in the capture, has no map of its heads or more than `MOST_HEADS` of them; a prompt
            is too long for whole maps; a score is unknown, not of maps, or has no value here.
    """
    names = list(of_maps([by] if isinstance(by, str) else by or ()))
    longest = int(np.max(capture.length))
    if longest > LARGEST_WHOLE_MAP:
        raise UsageError(
            f"heads are ranked by whole maps, of prompts of up to {LARGEST_WHOLE_MAP} tokens: one has {longest}"
        )
    chosen, left_out = _layers(capture, layers)
    heads = [(layer.index, head) for layer in chosen for head in range(layer.heads)]
    shown = dict.fromkeys([*names, *of_maps([*TARGETED, *STRUCTURAL], skip=True)])
    scores = compute(_Heads(capture, heads), shown, progress=progress)
    coordinates = {BLOCK: (LAYER, [i for i, _ in heads]), HEAD: (LAYER, [h for _, h in heads])}
    scores = scores.assign_coords(coordinates)
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


def _layers(capture: Capture, layers: Sequence[int] | None) -> tuple[list[Layer], list[str]]:
    """The layers whose heads are ranked, and a note on those that are left out."""
    asked = [capture.layer(index) for index in (capture.layers if layers is None else layers)]
    chosen = [layer for layer in asked if layer.has_operands]
    without = [str(layer.index) for layer in asked if not layer.has_operands]
    if without and (layers is not None or not chosen):
        raise UsageError(
            f"the heads of layer {', '.join(without)} cannot be ranked: "
            "softmax attention is stored as its mean map alone"
        )
    for layer in chosen:
        if layer.heads > MOST_HEADS:
            raise UsageError(
                f"layer {layer.index} has {layer.heads} heads (in Mamba-1 each channel is one), and heads are ranked "
                f"where a layer has at most {MOST_HEADS}: name other `layers`, or rank layers"
            )
    told = f"left out: softmax attention of layer {', '.join(without)}, stored as its mean map"
    return chosen, [told] if without else []


class _Heads:
    """A capture's heads as a capture of layers, numbered through; one layer's operands are held at a time."""

    def __init__(self, capture: Capture, heads: Sequence[tuple[int, int]]):
        self._capture, self._heads = capture, heads
        self._index: int | None = None
        self._operands: dict[int, Operator] = {}
        self.layers = range(len(heads))
        self.length, self.target = capture.length, capture.target
        self.prompt_kinds = capture.prompt_kinds
        self.closure_tolerance = capture.closure_tolerance

    def layer(self, number: int, /) -> "_Head":
        index, head = self._heads[number]
        if index != self._index:
            self._index, self._operands = index, {}
        return _Head(self._capture.layer(index), head, number, self._operands)


class _Head:
    """One head as a layer, whose map and mask are the head's own."""

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
