"""Edits inside a mixer: its operands, its state, entries of its M, its scan's output.

The mixer runs as it is, fused. What an edit changes is the difference of two computations from the same operands,
finish(edited) − finish(unedited), taken in float32 and rounded once with the mixer's own output. So an edit that
changes nothing leaves the output as it is, bit by bit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import MixerSite
from ssmlens.edits.apply import Apply
from ssmlens.edits.edit import Edit, Stage
from ssmlens.edits.finishing import finish_both, finish_change, is_linear
from ssmlens.edits.knock_out import KnockOut
from ssmlens.edits.operands import Changed, edit_operands, need_own_heads
from ssmlens.edits.positions import Positions
from ssmlens.edits.source import takes_values
from ssmlens.edits.value import SCAN_AXES, STATE_AXES, Place, ValueEdit
from ssmlens.errors import UsageError
from ssmlens.models.edge_sums import edge_sums
from ssmlens.models.fused_scan import fused_scan, is_fused
from ssmlens.scan.edges import change_of_rows, passed_over
from ssmlens.scan.operator import Operator, scan_dtype

Scanned = Float[Tensor, "batch token head headdim"]


def difference(
    site: MixerSite, given: MixerInput, positions: Positions, edits: Sequence[Edit]
) -> Float[Tensor, "batch token d_model"] | None:
    """What these edits, of stages from OPERANDS to SCAN_OUTPUT, add to the mixer's output. None: nothing.

    Raises:
        UsageError: The family lacks what an edit changes, or it is out of range.
    """
    if reason := site.adapter.unclosable(site.module):
        raise UsageError(f"{edits[0]}: {reason}")
    stages = {stage: [edit for edit in edits if edit.stage is stage] for stage in Stage}
    adapter = site.adapter
    project = adapter.project if any(map(takes_values, edits)) else adapter.project_fast
    before = project(site.module, given)
    if need_own_heads(before, stages[Stage.OPERANDS]):
        before = before.over_heads()  # both sides in one layout, so that they round alike
    after, changed = edit_operands(
        site,
        given,
        positions,
        before,
        stages[Stage.OPERANDS],
        compare=not is_fused(before, _wide_x(before)),  # else the same operands give the same bits
    )
    added = _added(after, positions, stages)
    linear, of_output = is_linear(site, before, after), stages[Stage.SCAN_OUTPUT]
    if after is before and added is None and not of_output:
        return None
    if linear and not of_output:
        change = _change_of_operands(before, after, changed)
        found = [some for some in (change, added) if some is not None]
        return finish_change(site, sum(found[1:], found[0]), after)
    unedited, mixed = _mix_both(before, after)
    if changed is not None:
        mixed = torch.where(changed, mixed, unedited)
    unedited, y = _with_skip(before, unedited), mixed if added is None else mixed + added
    y = _with_skip(after, y)
    for edit in of_output:
        assert isinstance(edit, ValueEdit)
        y = edit.apply(y, Place(edit.what, SCAN_AXES, positions))
    if linear:
        return finish_change(site, y - unedited, after)
    return finish_both(site, y, after, unedited, before)


def _added(
    o: Operator, positions: Positions, stages: Mapping[Stage, Sequence[Any]]
) -> Scanned | None:
    """What edits of states and of entries add to M x of the edited operands. None: there are none."""
    total = None
    if stages[Stage.STATE]:
        total = _by_groups(_edit_state, o, positions, stages[Stage.STATE])
    if stages[Stage.ENTRIES]:
        of_entries = _by_groups(_edit_entries, o, positions, stages[Stage.ENTRIES])
        total = of_entries if total is None else total + of_entries
    return total


def _change_of_operands(before: Operator, after: Operator, changed: Changed) -> Scanned | None:
    """What edited operands change of y = M x + D x. None: nothing."""
    if after is before:
        return None
    unedited, mixed = _mix_both(before, after)
    if after.x is not before.x or after.D is not before.D:
        unedited, mixed = _with_skip(before, unedited), _with_skip(after, mixed)
    change = mixed - unedited
    return change if changed is None else torch.where(changed, change, 0)


def _mix(o: Operator, x: Scanned) -> Scanned:
    """M x without D, outside autocast: by mamba_ssm's kernel where it computes this, else by the operator."""
    if torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return _mix(o, x)
    mixed = fused_scan(o, x)
    return o(x) if mixed is None else mixed


def _mix_both(before: Operator, after: Operator) -> tuple[Scanned, Scanned]:
    """M x of both: in one run where they can be one batch, since on a GPU it is the number of kernels that costs."""
    if _mix_the_same(before, after):
        mixed = _mix(before, _wide_x(before))
        return mixed, mixed
    x, edited = _wide_x(before), _wide_x(after)
    at_once = x.shape == edited.shape and not is_fused(before, x)  # which is one kernel by itself
    both = before.beside(after) if at_once else None
    if both is None:
        return _mix(before, x), _mix(after, edited)
    one, other = _mix(both, torch.cat([x, edited])).split(len(x))
    return one, other


def _mix_the_same(before: Operator, after: Operator) -> bool:
    """Whether M x is not edited: the gate or D alone is."""
    return all(getattr(before, name) is getattr(after, name) for name in (*before.axes, "x"))


def _with_skip(o: Operator, mixed: Scanned) -> Scanned:
    assert o.x is not None
    if o.D is None:
        return mixed
    return torch.addcmul(mixed, o.D.to(mixed.dtype), o.x.to(mixed.dtype))


def _by_groups(
    change: Callable[[Operator, Sequence[Any], Positions, list[int]], Scanned],
    operands: Operator,
    positions: Positions,
    edits: Sequence[Edit],
) -> Scanned:
    """What `change` adds to y, for prompts that begin at the same token at once: positions count from there."""
    assert operands.x is not None
    batch, tokens = operands.x.shape[:2]
    total = None
    by_length = any(named.counts_back for edit in edits for named, _ in edit.tokens_named())
    for rows, first, end in positions.groups(by_length=by_length):
        added = change(operands.rows(rows, first, end), edits, positions, rows)
        if len(rows) == batch and (first, end) == (0, tokens):
            return added
        whole = added.new_zeros(operands.x.shape)
        whole[rows, first:end] = added
        total = whole if total is None else total + whole
    if total is None:  # there is no real token
        return torch.zeros_like(_wide_x(operands))
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
    o: Operator, edits: Sequence[Edit], positions: Positions, rows: list[int]
) -> Scanned:
    """What knocking out edges takes from y, and what functions of M's rows add to it."""
    x = _wide_x(o)
    if all(isinstance(edit, KnockOut) for edit in edits):
        knocked = [edit.edges(o.tokens, o.heads) for edit in edits if isinstance(edit, KnockOut)]
        return -passed_over(o, x, knocked, _mix, edge_sums)

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
