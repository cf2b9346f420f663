"""Values from a recording or a tensor, aligned token by token with the call that is edited."""

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
"""A `LayerRecord`, a `Recording` (the edit uses its record of that layer), or a tensor with the axes of `what`."""


def check_source(source: Source, edit: Any) -> None:
    """Raise UsageError unless this is a `Source`."""
    if not isinstance(source, LayerRecord | Recording | Tensor):
        raise UsageError(f"{edit}: source must be a recording or a tensor, not {source!r}")


def takes_values(edit: Edit) -> bool:
    """Whether the edit takes values from outside the call.

    They may come from a recording of the same call. Then the edit must change no bit.
    """
    values = [getattr(edit, field.name) for field in dataclasses.fields(edit)]
    return any(
        isinstance(value, LayerRecord | Recording)
        or callable(value)
        or (isinstance(value, Tensor) and value.is_floating_point())
        for value in values
    )


def value_from(source: Source, edit: Edit, place: Place) -> tuple[Tensor, Positions | None]:
    """The value of `place.what` in the source, and the positions of its tokens, None for a tensor.

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
        raise UsageError(f"a recording has no {place.what}: pass a tensor")
    operands = record.operands.over_heads() if HEAD in place.axes else record.operands
    return quantity_of(operands, place.what)[0], positions


def _record_of(source: Recording, edit: Edit) -> LayerRecord:
    of_attention = edit.part == ATTENTION and edit.layer in source.softmax_attention
    return source.softmax_attention[edit.layer] if of_attention else source[edit.layer]


def quantity_of(operands: Operator, what: str) -> tuple[Tensor, tuple[str, ...]]:
    """An operand with its axes. D has one entry for each channel; the gate is [batch token head headdim].

    A gate may have columns before those of the heads, for a gated MLP beside the scan (Mamba-2 with d_ssm < d_inner).
    They are left out.
    """
    value, axes = operands.quantity(what)
    if what == "D" and operands.x is not None:
        return value.expand(-1, operands.x.shape[3]), axes
    if what == "gate" and operands.x is not None:
        heads, headdim = operands.x.shape[2:]
        return value[..., -heads * headdim :].unflatten(2, (heads, headdim)), SCAN_AXES
    return value, axes


def align(source: Tensor, positions: Positions | None, old: Tensor, place: Place) -> Tensor:
    """The values of `source` at the positions of `old`. Tokens that the source lacks keep `old`.

    Args:
        source: The values.
        positions: The positions of the source's tokens. None: its first token is at position 0.
        old: The value that is edited.
        place: Its axes and positions.

    Raises:
        UsageError: The sizes do not fit, or the source has several prompts but not as many as the call.
    """
    source = source.to(old.device, old.dtype)
    if TOKEN not in place.axes or PROMPT not in place.axes:
        return _fit(source, old, place)
    if source.ndim != old.ndim or source.shape[2:] != old.shape[2:]:
        return _fit(source, old, place)
    if len(source) not in (1, len(old)):
        raise UsageError(
            f"the source has {len(source)} prompts, but the call has {len(old)}: use one, or as many"
        )
    positions = positions or Positions.of(len(source), source.shape[1])
    here = place.positions.here if place.rows is None else place.positions.here[list(place.rows)]
    index = here - positions.first.expand(len(old)).unsqueeze(1)
    exists = (index >= 0) & (index < source.shape[1]) & (here >= 0)
    index = index.clamp(0, source.shape[1] - 1).to(old.device, non_blocking=True)
    rows = torch.arange(len(old), device=old.device).unsqueeze(1)
    values = source.expand(len(old), *source.shape[1:])[rows, index]
    exists = exists.to(old.device, non_blocking=True).reshape(*exists.shape, *[1] * (old.ndim - 2))
    return torch.where(exists, values, old)


def _fit(source: Tensor, old: Tensor, place: Place) -> Tensor:
    try:
        return source.expand_as(old)
    except RuntimeError:
        raise UsageError(
            f"a source of shape {list(source.shape)} does not fit {place.what}, "
            f"[{' '.join(place.axes)}] = {list(old.shape)}"
        ) from None
