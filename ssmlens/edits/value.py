"""Edits that change one value of a layer: an operand, the state, an input or an output."""

import dataclasses
import functools
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

# Values other than operands (`Operator.quantities`), with their stages.
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
_SELECTIONS = ("tokens", "heads", "channels", "states", "taps")
# Names that other libraries use.
_ALIASES = {"v": "x", "dt": "delta", "log-decay": "log_decay"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutTaps(Edit):
    """Restart the convolution after some tokens: the part of a state's edit that `cut_taps` adds.

    Attributes:
        tokens: The tokens after which it restarts.
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
    """What an edit knows about the value that it changes.

    Attributes:
        what: Its name.
        axes: Its axes.
        positions: The positions of the call's tokens.
        rows: The rows of the batch that the value covers. None: all.
    """

    what: str
    axes: tuple[str, ...]
    positions: Positions
    rows: Sequence[int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueEdit(Edit):
    """An edit that changes `what`, at some of its tokens, heads, channels, states or taps.

    Attributes:
        what: "residual" (the stream before the block), "input" (of the mixer, after the norm); an operand: "delta",
            "A", "log_decay", "B", "C", "q", "k", "beta", "x" (also "v"), "D", "gate", in Mamba-3 "rate", "share" and
            "angle" too; "conv" (taps); "state" after the write of the token in `tokens`, "initial_state"; "scan_output"
            (y = M x + D x, before gate and norm), "output" (of the mixer), "mlp" (its output), "block" (what the block
            adds to the stream).
        tokens: Which tokens, counted from the prompt's first real one. None: all.
        heads: Which heads. None: all.
        channels: Which columns of x: a head has headdim of them. None: all.
        states: Which states. None: all.
        taps: Which taps of the convolution. Tap 0 is that of the token itself; tap 1 is one token back. None: all.
        cut_taps: For a state: whether to also hide this token and earlier ones from the convolution of later tokens.
            The convolution's window is not part of the state.
    """

    what: str
    tokens: Chosen = None
    heads: Chosen = None
    channels: Chosen = None
    states: Chosen = None
    taps: Chosen = None
    cut_taps: bool = False

    def __post_init__(self):
        for name in _SELECTIONS:
            object.__setattr__(self, name, Selection.of(getattr(self, name)))
        if self.what == "state" and self.tokens is None:
            raise UsageError(f"{self}: name the token after which the state changes, as tokens=40")
        object.__setattr__(self, "what", _ALIASES.get(self.what, self.what))
        if self.cut_taps and self.what != "state":
            raise UsageError(f"{self}: cut_taps needs what=state")

    @property
    def stage(self) -> Stage:
        """See `Edit.stage`."""
        return _STAGES.get(_ALIASES.get(self.what, self.what), Stage.OPERANDS)

    def parts(self) -> list[Edit]:
        """See `Edit.parts`."""
        if not self.cut_taps:
            return [self]
        assert self.tokens is not None
        cut = CutTaps(layer=self.layer, part=self.part, tokens=self.tokens)
        return [cut, dataclasses.replace(self, cut_taps=False)]

    @functools.cached_property
    def _whole(self) -> bool:
        """Whether the edit selects nothing, so that it changes the whole value."""
        return all(getattr(self, name) is None for name in _SELECTIONS)

    @abstractmethod
    def new(self, old: Tensor, place: Place) -> Tensor:
        """The new value everywhere. `apply` uses only its selected entries."""

    def check_number(self, value: Any, name: str) -> None:
        """Raise UsageError unless this is a number or a tensor."""
        if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
            raise UsageError(f"{self}: {name} must be a number, or a tensor from Python")

    @property
    def is_differentiable(self) -> bool:
        """Whether the edit has a tensor that requires gradients. Then it is applied even where it changes nothing."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return any(isinstance(value, Tensor) and value.requires_grad for value in values)

    def tokens_named(self) -> list[tuple[Selection, str]]:
        """See `Edit.tokens_named`."""
        return [] if self.tokens is None else [(self.tokens, "token")]

    def apply(self, old: Tensor, place: Place) -> Tensor:
        """`old` with the new value at the selected entries.

        Raises:
            UsageError: A selection is of an axis that the value lacks, or is out of range.
        """
        new = self.new(old, place)
        if new.dtype != old.dtype or new.device != old.device:
            new = new.to(old.device, old.dtype)
        chosen = self._chosen(old, place)
        if chosen is not None:
            return torch.where(chosen, new, old)
        return new if new.shape == old.shape else new.expand_as(old)

    def _chosen(self, old: Tensor, place: Place) -> Bool[Tensor, "..."] | None:
        if self._whole and TOKEN in place.axes and not place.positions.padded:
            return None
        masks = []
        if TOKEN in place.axes:
            if self.tokens is not None or place.positions.padded:
                masks.append(self._along(self._tokens(place), (PROMPT, TOKEN), old, place))
        elif self.tokens is not None and place.what != "state":
            raise UsageError(f"{self}: {place.what} has no tokens to select")
        for selection, axis, name in (
            (self.heads, HEAD, "head"),
            (self.states, STATE, "state"),
            (self.taps, TAP, "tap"),
        ):
            if selection is None:
                continue
            if axis not in place.axes:
                raise UsageError(f"{self}: {place.what} has no {name}s to select")
            mask = self._mask(selection, old.shape[place.axes.index(axis)], name)
            # Tap 0, that of the token itself, comes last.
            mask = mask.flip(0) if axis == TAP else mask
            masks.append(self._along(mask, (axis,), old, place))
        if self.channels is not None:
            if HEADDIM not in place.axes or HEAD not in place.axes:
                raise UsageError(f"{self}: {place.what} has no channels to select")
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
        """Move a CPU mask over some axes to the value's device, shaped to broadcast over it. Waits for no GPU."""
        shape = [1] * old.ndim
        for axis, size in zip(axes, mask.shape, strict=True):
            shape[place.axes.index(axis)] = size
        return mask.reshape(shape).to(old.device, non_blocking=True)
