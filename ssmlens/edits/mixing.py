"""Edits inside a mixer: its operands, its state, entries of its M, its scan's output.

The mixer runs as it is, fused. What an edit changes is the difference of two computations from the same operands,
finish(edited) − finish(unedited), taken in float32 and rounded once with the mixer's own output. So an edit that
changes nothing leaves the output as it is, bit by bit.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import MixerSite
from ssmlens.edits.apply import Apply
from ssmlens.edits.convolution import is_of_convolution, project_again
from ssmlens.edits.edit import Edit, Stage
from ssmlens.edits.knock_out import KnockOut
from ssmlens.edits.positions import Positions
from ssmlens.edits.source import quantity_of
from ssmlens.edits.value import SCAN_AXES, STATE_AXES, Place, ValueEdit
from ssmlens.errors import UsageError
from ssmlens.models.edge_sums import edge_sums
from ssmlens.names import GROUP, HEAD
from ssmlens.scan.edges import Mix, change_of_rows, passed_over
from ssmlens.scan.operator import Operator, scan_dtype

Scanned = Float[Tensor, "batch token head headdim"]


def difference(
    site: MixerSite, given: MixerInput, positions: Positions, edits: Sequence[Edit]
) -> Float[Tensor, "batch token d_model"]:
    """What these edits, of stages from OPERANDS to SCAN_OUTPUT, add to the mixer's output.

    Raises:
        UsageError: The family lacks what an edit changes, or it is out of range.
    """
    if reason := site.adapter.unclosable(site.module):
        raise UsageError(f"{edits[0]}: {reason}")
    before = site.adapter.project(site.module, given)
    if any(getattr(edit, "heads", None) is not None for edit in edits):
        before = before.over_heads()  # both sides in one layout, so that they round alike
    stages = {stage: [edit for edit in edits if edit.stage is stage] for stage in Stage}
    after, changed = _edit_operands(site, given, positions, before, stages[Stage.OPERANDS])
    mix = _mix_without_autocast(site)
    unedited, mixed = _mix_both(mix, before, after)
    if changed is not None:
        mixed = torch.where(changed, mixed, unedited)
    unedited = _with_skip(before, unedited)
    if stages[Stage.STATE]:
        mixed = mixed + _by_groups(_edit_state, after, positions, stages[Stage.STATE])
    if stages[Stage.ENTRIES]:
        edit_entries = functools.partial(_edit_entries, mix)
        mixed = mixed + _by_groups(edit_entries, after, positions, stages[Stage.ENTRIES])
    y = _with_skip(after, mixed)
    for edit in stages[Stage.SCAN_OUTPUT]:
        assert isinstance(edit, ValueEdit)
        y = edit.apply(y, Place(edit.what, SCAN_AXES, positions))
    finish = site.adapter.finish
    edited = finish(site.module, y, after)
    wide = scan_dtype(edited)
    return edited.to(wide) - finish(site.module, unedited, before).to(wide)


def _mix_without_autocast(site: MixerSite) -> Mix:
    def mix(o: Operator, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return site.adapter.mix(o, x)

    return mix


def _mix_both(mix: Mix, before: Operator, after: Operator) -> tuple[Scanned, Scanned]:
    """M x of both: in one run where they can be one batch, since on a GPU it is the number of kernels that costs."""
    if after is before:
        mixed = mix(before, _wide_x(before))
        return mixed, mixed
    x, edited = _wide_x(before), _wide_x(after)
    both = before.beside(after) if x.shape == edited.shape else None
    if both is None:
        return mix(before, x), mix(after, edited)
    one, other = mix(both, torch.cat([x, edited])).split(len(x))
    return one, other


def _with_skip(o: Operator, mixed: Scanned) -> Scanned:
    assert o.x is not None
    return mixed if o.D is None else mixed + o.D.to(mixed.dtype) * o.x.to(mixed.dtype)


def _edit_operands(
    site: MixerSite,
    given: MixerInput,
    positions: Positions,
    operands: Operator,
    edits: Sequence[Edit],
) -> tuple[Operator, Bool[Tensor, ""] | None]:
    """The operands, projected with other taps where edits say so, then changed one by one; and whether they changed.

    That stays on the device, so that nothing waits for it. None: they count as changed, since somebody may ask how the
    output depends on them.
    """
    changed = torch.zeros((), dtype=torch.bool, device=given.hidden.device)
    of_convolution = [edit for edit in edits if is_of_convolution(edit)]
    if of_convolution:
        new = project_again(site, given, positions, operands, of_convolution)
        changed = changed | _differ(operands, new)
        operands = new
    for edit in edits:
        if not is_of_convolution(edit):
            assert isinstance(edit, ValueEdit)
            operands, differs = _edit_operand(operands, edit, positions)
            changed = changed | differs
    return operands, None if any(_asked_for(edit) for edit in edits) else changed


def _asked_for(edit: Edit) -> bool:
    """Whether somebody may ask how the output depends on what it puts in."""
    return isinstance(edit, ValueEdit) and edit.is_differentiable and torch.is_grad_enabled()


def _differ(before: Operator, after: Operator) -> Bool[Tensor, ""]:
    assert before.x is not None
    differs = torch.zeros((), dtype=torch.bool, device=before.x.device)
    for name in (*before.axes, "x", "gate"):
        one, other = getattr(before, name), getattr(after, name)
        if one is not None and one is not other:
            differs = differs | (one != other).any()
    return differs


def _edit_operand(
    operands: Operator, edit: ValueEdit, positions: Positions
) -> tuple[Operator, Bool[Tensor, ""]]:
    try:
        value, axes = quantity_of(operands, edit.what)
    except UsageError as error:
        raise UsageError(f"{edit}: the mixer {error}") from None
    if edit.heads is not None and operands.groups == operands.heads:
        axes = tuple(HEAD if axis == GROUP else axis for axis in axes)
    new = edit.apply(value, Place(edit.what, axes, positions))
    # A GPU would have to be waited for; but another log decay takes A's place, and the same one must not.
    at_once = edit.what == "log_decay" or not value.is_cuda
    if at_once and not _asked_for(edit) and torch.equal(new, value):
        return operands, torch.zeros((), dtype=torch.bool, device=value.device)
    differs = (new != value).any()
    if edit.what == "gate":
        whole, _ = operands.quantity("gate")
        flat = new.flatten(2)
        new = torch.cat([whole[..., : whole.shape[2] - flat.shape[2]], flat], dim=2)
    return operands.with_quantity(edit.what, new), differs


def _by_groups(
    change: Callable[[Operator, Sequence[Any], Positions, list[int]], Scanned],
    operands: Operator,
    positions: Positions,
    edits: Sequence[Edit],
) -> Scanned:
    """What `change` adds to y, for prompts that begin at the same token at once: positions count from there."""
    assert operands.x is not None
    total = operands.x.new_zeros(operands.x.shape, dtype=scan_dtype(operands.like))
    by_length = any(named.counts_back for edit in edits for named, _ in edit.tokens_named())
    for rows, first, end in positions.groups(by_length=by_length):
        added = change(operands.rows(rows, first, end), edits, positions, rows)
        if len(rows) == len(total) and (first, end) == (0, total.shape[1]):
            return added
        whole = torch.zeros_like(total)
        whole[rows, first:end] = added
        total = total + whole
    return total


def _edit_state(
    o: Operator, edits: Sequence[ValueEdit], positions: Positions, rows: list[int]
) -> Scanned:
    """What later tokens read of the changes of the state, earlier tokens first."""
    x = _wide_x(o)
    total, changes = torch.zeros_like(x), []
    for token, edit in _by_token(o, edits):
        state = o.state_after(x, max(0, token))
        state = torch.zeros_like(state) if token < 0 else state
        for since, change in changes:
            state = state + o.state_left(change, since, token)
        place = Place(edit.what, STATE_AXES, positions, rows)
        change = edit.apply(state, place) - state
        changes.append((token, change))
        total = total + o.read_state(change, token)
    return total


def _by_token(o: Operator, edits: Sequence[ValueEdit]) -> list[tuple[int, ValueEdit]]:
    """Every token after which a state changes, −1 for the initial one, with its edit; in time, then as given."""
    pairs = []
    for edit in edits:
        if edit.what == "initial_state":
            pairs.append((-1, edit))
        else:
            assert edit.tokens is not None
            chosen = edit.tokens.clipped(o.tokens, o.tokens).nonzero().flatten().tolist()
            pairs += [(token, edit) for token in chosen]
    return sorted(pairs, key=lambda pair: pair[0])


def _edit_entries(
    mix: Mix, o: Operator, edits: Sequence[Edit], positions: Positions, rows: list[int]
) -> Scanned:
    """What knocking out edges takes from y, and what functions of M's rows add to it."""
    x = _wide_x(o)
    if all(isinstance(edit, KnockOut) for edit in edits):
        knocked = [edit.edges(o.tokens, o.heads) for edit in edits if isinstance(edit, KnockOut)]
        return -passed_over(o, x, knocked, mix, edge_sums)

    everything = torch.ones(o.heads, dtype=torch.bool)
    selections = [getattr(edit, "heads", None) for edit in edits]
    masks = [everything if some is None else some.mask(o.heads, "head") for some in selections]
    heads = torch.stack(masks).any(0).nonzero().flatten().tolist()

    def change(M: Tensor, queries: tuple[int, int]) -> Tensor:
        for edit in edits:
            M = _edit_rows(edit, M, queries, heads, o)
        return M

    return change_of_rows(o, x, heads, change)


def _edit_rows(
    edit: Edit, M: Tensor, queries: tuple[int, int], heads: list[int], of: Operator
) -> Tensor:
    """Rows of M of these heads of an operator, as the edit leaves them."""
    if isinstance(edit, KnockOut):
        edges = edit.edges(M.shape[3], of.heads)
        of_heads = edges.heads[heads, None, None].to(M.device)
        return M.masked_fill(edges.within(*queries, M.device, of.is_causal) & of_heads, 0)
    assert isinstance(edit, Apply)
    if edit.heads is None:
        return edit.rows(M, range(*queries))
    own = edit.heads.mask(of.heads, "head")[heads].nonzero().flatten().to(M.device)
    return M.index_copy(1, own, edit.rows(M[:, own], range(*queries)))


def _wide_x(o: Operator) -> Scanned:
    if o.x is None:
        raise UsageError("what this layer mixes cannot be read")
    return o.x.to(scan_dtype(o.like))
