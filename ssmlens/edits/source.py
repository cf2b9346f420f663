"""Values from elsewhere: another recording, or a tensor, laid token by token over the call that is edited."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ssmlens.edits.edit import ATTENTION, Edit
from ssmlens.edits.positions import Positions
from ssmlens.edits.value import SCAN_AXES, STREAM_AXES, Place
from ssmlens.errors import UsageError
from ssmlens.names import HEAD, PROMPT, TOKEN
from ssmlens.recorder.layer_record import LayerRecord
from ssmlens.recorder.recording import Recording
from ssmlens.scan.operator import Operator
from ssmlens.scan.selective_scan import selective_scan

Source = Any
"""A `LayerRecord`, a `Recording` (its record of the edited layer is taken), or a tensor with the axes of `what`."""


def check_source(source: Source, edit: Any) -> None:
    """Raise UsageError if this is nothing that values can be taken from."""
    if not isinstance(source, LayerRecord | Recording | Tensor):
        raise UsageError(f"{edit}: give it a recording to take values from, not {source!r}")


def takes_values(edit: Edit) -> bool:
    """Whether it puts in values from elsewhere, which may be those of a recording of the same call, to the bit."""
    given = [getattr(edit, field.name) for field in dataclasses.fields(edit)]
    return any(
        isinstance(value, LayerRecord | Recording)
        or callable(value)
        or (isinstance(value, Tensor) and value.is_floating_point())
        for value in given
    )


def value_from(source: Source, edit: Edit, place: Place) -> tuple[Tensor, Positions | None]:
    """The value of `place.what` in the source, and the positions of its tokens; a tensor's are its own.

    Raises:
        UsageError: The source has no such value.
    """
    if isinstance(source, Tensor):
        return source, None
    record = _record_of(source, edit) if isinstance(source, Recording) else source
    hidden = record.call.given.hidden
    positions = Positions.of(len(hidden), hidden.shape[1], record.call.given.token_mask)
    if place.what == "input":
        return hidden, positions
    if place.what == "output":
        return record.call.output, positions
    if place.what == "scan_output":
        return selective_scan(record.operands), positions
    if place.axes == STREAM_AXES or place.what in ("state", "initial_state", "conv"):
        raise UsageError(f"a recording holds no {place.what}: give a tensor")
    operands = record.operands.over_heads() if HEAD in place.axes else record.operands
    return quantity_of(operands, place.what)[0], positions


def _record_of(source: Recording, edit: Edit) -> LayerRecord:
    beside = edit.part == ATTENTION and edit.layer in source.softmax_attention
    return source.softmax_attention[edit.layer] if beside else source[edit.layer]


def quantity_of(operands: Operator, what: str) -> tuple[Tensor, tuple[str, ...]]:
    """An operand with its axes; D of every channel; of the gate the part of heads, as [batch token head headdim].

    A gate may have columns before those of the heads: a gated MLP beside the scan (Mamba-2 with d_ssm < d_inner).
    """
    value, axes = operands.quantity(what)
    if what == "D" and operands.x is not None:
        return value.expand(-1, operands.x.shape[3]), axes
    if what == "gate" and operands.x is not None:
        heads, headdim = operands.x.shape[2:]
        return value[..., -heads * headdim :].unflatten(2, (heads, headdim)), SCAN_AXES
    return value, axes


def laid_over(source: Tensor, of: Positions | None, old: Tensor, place: Place) -> Tensor:
    """`source` at the positions of `old`; where the source has no such token or prompt, `old`.

    Raises:
        UsageError: The source has other sizes, or several prompts where the call has another number.
    """
    source = source.to(old.device, old.dtype)
    if TOKEN not in place.axes or PROMPT not in place.axes:
        return _fit(source, old, place)
    if source.ndim != old.ndim or source.shape[2:] != old.shape[2:]:
        return _fit(source, old, place)
    if len(source) not in (1, len(old)):
        raise UsageError(
            f"the source has {len(source)} prompts and the call {len(old)}: take one, or as many"
        )
    of = of or Positions.of(len(source), source.shape[1])
    here = place.positions.here if place.rows is None else place.positions.here[list(place.rows)]
    index = here - of.first.expand(len(old)).unsqueeze(1)
    there = (index >= 0) & (index < source.shape[1]) & (here >= 0)
    index = index.clamp(0, source.shape[1] - 1).to(old.device, non_blocking=True)
    rows = torch.arange(len(old), device=old.device).unsqueeze(1)
    taken = source.expand(len(old), *source.shape[1:])[rows, index]
    there = there.to(old.device, non_blocking=True).reshape(*there.shape, *[1] * (old.ndim - 2))
    return torch.where(there, taken, old)


def _fit(source: Tensor, old: Tensor, place: Place) -> Tensor:
    try:
        return source.expand_as(old)
    except RuntimeError:
        raise UsageError(
            f"a source of shape {list(source.shape)} does not fit {place.what}, "
            f"[{' '.join(place.axes)}] = {list(old.shape)}"
        ) from None
