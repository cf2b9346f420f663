"""Edits that give some quantity of a layer another value: an operand, the state, what goes in, what comes out."""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from ssmlens.edits.edit import Edit, Stage
from ssmlens.edits.positions import Positions
from ssmlens.edits.selection import Chosen, Selection
from ssmlens.errors import UsageError
from ssmlens.names import HEAD, HEADDIM, PROMPT, STATE, TAP, TOKEN

STREAM_AXES = (PROMPT, TOKEN, "d_model")
SCAN_AXES = (PROMPT, TOKEN, HEAD, HEADDIM)
STATE_AXES = (PROMPT, HEAD, HEADDIM, STATE)
CONV_AXES = ("channel", TAP)

# What can be given another value, beside the operands (`Operator.quantities`).
_STAGES = {
    "residual": Stage.RESIDUAL,
    "input": Stage.INPUT,
    "conv": Stage.OPERANDS,
    "state": Stage.STATE,
    "initial_state": Stage.STATE,
    "scan_output": Stage.SCAN_OUTPUT,
    "output": Stage.OUTPUT,
    "mlp": Stage.MLP,
    "block": Stage.BLOCK,
}
# Other libraries' names for the same.
_ALSO = {"v": "x", "dt": "delta", "log-decay": "log_decay"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutTaps(Edit):
    """The convolution starts anew after some tokens: what a state's `cut_taps` adds to its change.

    Attributes:
        tokens: After which tokens.
    """

    tokens: Selection
    kind: ClassVar[str] = "cut-taps"

    @property
    def stage(self) -> Stage:
        """See `Edit.stage`."""
        return Stage.OPERANDS

    def tokens_named(self) -> list[tuple[Selection, str]]:
        """See `Edit.tokens_named`."""
        return [(self.tokens, "token")]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a value stands while it is edited.

    Attributes:
        what: Its name.
        axes: Its axes.
        positions: Those of the tokens of this call.
        rows: The rows of the batch that it is of; None: all.
    """

    what: str
    axes: tuple[str, ...]
    positions: Positions
    rows: Sequence[int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueEdit(Edit):
    """An edit that gives `what` another value, at some of its tokens, heads, channels, states or taps.

    Attributes:
        what: "residual" (the stream before the block), "input" (of the mixer, after the norm); an operand: "delta",
            "A", "log_decay", "B", "C", "q", "k", "beta", "x" (also "v"), "D", "gate", in Mamba-3 "rate", "share" and
            "angle" too; "conv" (taps); "state" after the write of the token that `tokens` names, "initial_state";
            "scan_output" (y = M x + D x, before gate and norm), "output" (of the mixer), "mlp" (its output), "block"
            (what the whole block adds).
        tokens: Which tokens, counted from the prompt's first real one. None: all.
        heads: Which heads. None: all.
        channels: Which columns of x: a head has headdim of them. None: all.
        states: Which states. None: all.
        taps: Which taps of the convolution, counted back from the token itself, which is tap 0. None: all.
        cut_taps: Of a state: whether later tokens see nothing of that token, and of those before it, through the taps
            of the convolution either. The convolution's window is no part of the state.
    """

    what: str
    tokens: Chosen = None
    heads: Chosen = None
    channels: Chosen = None
    states: Chosen = None
    taps: Chosen = None
    cut_taps: bool = False

    def __post_init__(self):
        for name in ("tokens", "heads", "channels", "states", "taps"):
            object.__setattr__(self, name, Selection.of(getattr(self, name)))
        if self.what == "state" and self.tokens is None:
            raise UsageError(f"{self}: say after which token the state changes, as tokens=40")
        object.__setattr__(self, "what", _ALSO.get(self.what, self.what))
        if self.cut_taps and self.what != "state":
            raise UsageError(f"{self}: cut_taps goes with the state after a token")

    @property
    def stage(self) -> Stage:
        """See `Edit.stage`."""
        return _STAGES.get(_ALSO.get(self.what, self.what), Stage.OPERANDS)

    def parts(self) -> list[Edit]:
        """See `Edit.parts`."""
        if not self.cut_taps:
            return [self]
        assert self.tokens is not None
        cut = CutTaps(layer=self.layer, part=self.part, tokens=self.tokens)
        return [cut, dataclasses.replace(self, cut_taps=False)]

    @abstractmethod
    def new(self, old: Tensor, place: Place) -> Tensor:
        """The new value, everywhere; only what is selected of it is taken."""

    def check_number(self, value: Any, name: str) -> None:
        """Raise UsageError unless this is a number or a tensor."""
        if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
            raise UsageError(f"{self}: {name} is a number, or from Python a tensor")

    @property
    def is_differentiable(self) -> bool:
        """Whether somebody may ask how the output depends on it, also where it changes nothing."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return any(isinstance(value, Tensor) and value.requires_grad for value in values)

    def tokens_named(self) -> list[tuple[Selection, str]]:
        """See `Edit.tokens_named`."""
        return [] if self.tokens is None else [(self.tokens, "token")]

    def apply(self, old: Tensor, place: Place) -> Tensor:
        """`old` with the new value where it is selected.

        Raises:
            UsageError: Something is selected on an axis that the value lacks, or is out of range.
        """
        new = self.new(old, place).to(old.dtype)
        if new.device != old.device:
            new = new.to(old.device)
        chosen = self._chosen(old, place)
        if chosen is not None:
            return torch.where(chosen, new, old)
        return new if new.shape == old.shape else new.expand_as(old)

    def _chosen(self, old: Tensor, place: Place) -> Bool[Tensor, "..."] | None:
        masks = []
        if TOKEN in place.axes:
            if self.tokens is not None or place.positions.padded:
                masks.append(self._along(self._tokens(place), (PROMPT, TOKEN), old, place))
        elif self.tokens is not None and place.what != "state":
            raise UsageError(f"{self}: {place.what} has no tokens to choose from")
        for selection, axis, name in (
            (self.heads, HEAD, "head"),
            (self.states, STATE, "state"),
            (self.taps, TAP, "tap"),
        ):
            if selection is None:
                continue
            if axis not in place.axes:
                raise UsageError(f"{self}: {place.what} has no {name}s to choose from")
            mask = self._mask(selection, old.shape[place.axes.index(axis)], name)
            # The last tap is the token itself: tap 0.
            mask = mask.flip(0) if axis == TAP else mask
            masks.append(self._along(mask, (axis,), old, place))
        if self.channels is not None:
            if HEADDIM not in place.axes or HEAD not in place.axes:
                raise UsageError(f"{self}: {place.what} has no channels to choose from")
            heads, headdim = (old.shape[place.axes.index(axis)] for axis in (HEAD, HEADDIM))
            mask = self._mask(self.channels, heads * headdim, "channel").unflatten(0, (heads, -1))
            masks.append(self._along(mask, (HEAD, HEADDIM), old, place))
        if not masks:
            return None
        chosen = masks[0]
        for mask in masks[1:]:
            chosen = chosen & mask
        return chosen

    def _tokens(self, place: Place) -> Bool[Tensor, "batch token"]:
        chosen = place.positions.chosen(self.tokens)
        return chosen if place.rows is None else chosen[list(place.rows)]

    def _mask(self, selection: Selection, length: int, name: str) -> Bool[Tensor, " length"]:
        try:
            return selection.mask(length, name)
        except UsageError as error:
            raise UsageError(f"{self}: {error}") from None

    def _along(self, mask: Tensor, axes: tuple[str, ...], old: Tensor, place: Place) -> Tensor:
        """A mask of some axes, on the CPU, shaped to be broadcast over the value; no GPU is waited for."""
        shape = [1] * old.ndim
        for axis, size in zip(axes, mask.shape, strict=True):
            shape[place.axes.index(axis)] = size
        return mask.reshape(shape).to(old.device, non_blocking=True)
