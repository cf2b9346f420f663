"""Edit a mixer's operands, and find out whether they changed."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import MixerSite
from ssmlens.edits.convolution import is_of_convolution, project_again
from ssmlens.edits.edit import Edit
from ssmlens.edits.positions import Positions
from ssmlens.edits.source import quantity_of
from ssmlens.edits.value import Place, ValueEdit
from ssmlens.errors import UsageError
from ssmlens.names import GROUP, HEAD
from ssmlens.scan.operator import Operator

Changed = Bool[Tensor, ""] | None
"""Whether operands changed, as a tensor on their device: nothing waits for a GPU. None: assume that they did."""


def need_own_heads(operands: Operator, edits: Sequence[Edit]) -> bool:
    """Whether an edit of some heads changes an array that groups of heads share."""
    return operands.groups != operands.heads and any(
        isinstance(edit, ValueEdit)
        and edit.heads is not None
        and edit.what in operands.quantities
        and GROUP in operands.quantity(edit.what)[1]
        for edit in edits
    )


def edit_operands(
    site: MixerSite,
    given: MixerInput,
    positions: Positions,
    operands: Operator,
    edits: Sequence[Edit],
    *,
    compare: bool,
) -> tuple[Operator, Changed]:
    """Apply edits of taps, which project the operands again, then the other edits one by one.

    Returns:
        The operands, and whether they changed. They are `operands` itself if they are known to be equal. They count as
        changed if an edit needs gradients, or if `compare` is False.
    """
    differs: list[Bool[Tensor, ""]] = []
    new = operands
    of_convolution = [edit for edit in edits if is_of_convolution(edit)]
    if of_convolution:
        new = project_again(site, given, positions, operands, of_convolution)
        differs += _differ(operands, new)
    for edit in edits:
        if not is_of_convolution(edit):
            assert isinstance(edit, ValueEdit)
            new, some = _edit_operand(new, edit, positions, compare)
            differs += some
    if any(_needs_grad(edit) for edit in edits) or not differs:
        return new, None
    return new, differs[0] if len(differs) == 1 else torch.stack(differs).any()


def _needs_grad(edit: Edit) -> bool:
    """Whether gradients may flow to a value of this edit."""
    return isinstance(edit, ValueEdit) and edit.is_differentiable and torch.is_grad_enabled()


def _differ(before: Operator, after: Operator) -> list[Bool[Tensor, ""]]:
    both = [(getattr(before, n), getattr(after, n)) for n in (*before.axes, "x", "gate")]
    return [(a != b).any() for a, b in both if a is not None and a is not b]


def _edit_operand(
    operands: Operator, edit: ValueEdit, positions: Positions, compare: bool
) -> tuple[Operator, list[Bool[Tensor, ""]]]:
    try:
        value, axes = quantity_of(operands, edit.what)
    except UsageError as error:
        raise UsageError(f"{edit}: the mixer {error}") from None
    if edit.heads is not None and operands.groups == operands.heads:
        axes = tuple(HEAD if axis == GROUP else axis for axis in axes)
    new = edit.apply(value, Place(edit.what, axes, positions))
    # Comparing now waits for a GPU. A log decay is compared all the same: setting one replaces A, even an equal one.
    compare_now = edit.what == "log_decay" or not value.is_cuda
    if compare_now and not _needs_grad(edit) and torch.equal(new, value):
        return operands, []
    differs = [(new != value).any()] if compare else []
    if edit.what == "gate":
        gate, _ = operands.quantity("gate")
        flat = new.flatten(2)
        new = torch.cat([gate[..., : gate.shape[2] - flat.shape[2]], flat], dim=2)
    return operands.with_quantity(edit.what, new), differs
