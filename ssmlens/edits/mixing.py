"""Edits inside a mixer: of its operands, its state, entries of its M, its scan's output.

The mixer keeps its fused code. The change by the edits is the difference of two computations from the same operands,
finish(edited) − finish(unedited). It is computed in float32, added to the mixer's own output, and the sum is rounded
once. So an edit that changes nothing changes no bit of the output.
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
from ssmlens.scan.edges import change_of_rows, sum_over_union
from ssmlens.scan.operator import Operator, scan_dtype

Scanned = Float[Tensor, "batch token head headdim"]


def difference(
    site: MixerSite, given: MixerInput, positions: Positions, edits: Sequence[Edit]
) -> Float[Tensor, "batch token d_model"] | None:
    """The change of the mixer's output by these edits, of stages OPERANDS to SCAN_OUTPUT. None: no change.

    Raises:
        UsageError: The mixer lacks what an edit changes, or a selection is out of range.
    """
    if reason := site.adapter.unclosable(site.module):
        raise UsageError(f"{edits[0]}: {reason}")
    stages = {stage: [edit for edit in edits if edit.stage is stage] for stage in Stage}
    adapter = site.adapter
    project = adapter.project if any(map(takes_values, edits)) else adapter.project_fast
    before = project(site.module, given)
    if need_own_heads(before, stages[Stage.OPERANDS]):
        before = before.over_heads()  # both sides in one layout, so that they round in the same way
    after, changed = edit_operands(
        site,
        given,
        positions,
        before,
        stages[Stage.OPERANDS],
        compare=not is_fused(
            before, _wide_x(before)
        ),  # the fused scan gives equal bits for equal operands
    )
    added = _change_of_states_and_entries(after, positions, stages)
    linear, output_edits = is_linear(site, before, after), stages[Stage.SCAN_OUTPUT]
    if after is before and added is None and not output_edits:
        return None
    if linear and not output_edits:
        changes = [_change_of_operands(before, after, changed), added]
        changes = [change for change in changes if change is not None]
        return finish_change(site, sum(changes[1:], changes[0]), after)
    unedited, mixed = _mix_both(before, after)
    mixed = _where_changed(changed, mixed, unedited)
    unedited, y = _with_skip(before, unedited), mixed if added is None else mixed + added
    y = _with_skip(after, y)
    for edit in output_edits:
        assert isinstance(edit, ValueEdit)
        y = edit.apply(y, Place(edit.what, SCAN_AXES, positions))
    if linear:
        return finish_change(site, y - unedited, after)
    return finish_both(site, y, after, unedited, before)


def _change_of_states_and_entries(
    o: Operator, positions: Positions, stages: Mapping[Stage, Sequence[Any]]
) -> Scanned | None:
    """The change of M x, of the edited operands, by edits of states and entries. None: there are no such edits."""
    total = None
    if stages[Stage.STATE]:
        total = _by_groups(_edit_state, o, positions, stages[Stage.STATE])
    if stages[Stage.ENTRIES]:
        of_entries = _by_groups(_edit_entries, o, positions, stages[Stage.ENTRIES])
        total = of_entries if total is None else total + of_entries
    return total


def _change_of_operands(before: Operator, after: Operator, changed: Changed) -> Scanned | None:
    """The change of y = M x + D x by the edited operands. None: no change."""
    if after is before:
        return None
    unedited, mixed = _mix_both(before, after)
    if after.x is not before.x or after.D is not before.D:
        unedited, mixed = _with_skip(before, unedited), _with_skip(after, mixed)
    return _where_changed(changed, mixed, unedited) - unedited


def _where_changed(changed: Changed, edited: Scanned, unedited: Scanned) -> Scanned:
    """`edited`, or `unedited` if no operand changed: equal operands may give other bits in another place of a batch."""
    return edited if changed is None else torch.where(changed, edited, unedited)


def _mix(o: Operator, x: Scanned) -> Scanned:
    """M x without D, outside autocast: by mamba_ssm's kernel if it covers this operator, else by the operator."""
    if torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return _mix(o, x)
    mixed = fused_scan(o, x)
    return o(x) if mixed is None else mixed


def _mix_both(before: Operator, after: Operator) -> tuple[Scanned, Scanned]:
    """M x of both, in one batch if possible: on a GPU the time depends on the number of kernels."""
    if _have_one_product(before, after):
        mixed = _mix(before, _wide_x(before))
        return mixed, mixed
    x, edited = _wide_x(before), _wide_x(after)
    batched = x.shape == edited.shape and not is_fused(
        before, x
    )  # a fused scan is one kernel anyway
    both = before.beside(after) if batched else None
    if both is None:
        return _mix(before, x), _mix(after, edited)
    one, other = _mix(both, torch.cat([x, edited])).split(len(x))
    return one, other


def _have_one_product(before: Operator, after: Operator) -> bool:
    """Whether both have the same M x: at most the gate and D are edited."""
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
    """The change of y by `change`, called once for all prompts that begin at the same token.

    `change` gets operands that begin at the prompts' first real token.
    """
    assert operands.x is not None
    batch, tokens = operands.x.shape[:2]
    total = None
    by_length = any(named.counts_back for edit in edits for named, _ in edit.tokens_named())
    for rows, first, end in positions.groups(by_length=by_length):
        added = change(operands.rows(rows, first, end), edits, positions, rows)
        if len(rows) == batch and (first, end) == (0, tokens):
            return added
        padded = added.new_zeros(operands.x.shape)
        padded[rows, first:end] = added
        total = padded if total is None else total + padded
    if total is None:  # no token is real
        return torch.zeros_like(_wide_x(operands))
    return total


def _edit_state(
    o: Operator, edits: Sequence[ValueEdit], positions: Positions, rows: list[int]
) -> Scanned:
    """The change of y that later tokens read from the edited states. Edits of earlier tokens apply first."""
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
    """Pairs (token, edit): the edit changes the state after this token, −1 being the initial state.

    Sorted by token; pairs of one token stay in the order of the edits.
    """
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
    """The change of y by knocked-out edges and by functions of M's rows."""
    x = _wide_x(o)
    if all(isinstance(edit, KnockOut) for edit in edits):
        knocked = [edit.edges(o.tokens, o.heads) for edit in edits if isinstance(edit, KnockOut)]
        return -sum_over_union(o, x, knocked, _mix, edge_sums)

    all_heads = torch.ones(o.heads, dtype=torch.bool)
    selections = [getattr(edit, "heads", None) for edit in edits]
    masks = [all_heads if some is None else some.mask(o.heads, "head") for some in selections]
    heads = torch.stack(masks).any(0).nonzero().flatten().tolist()

    def change(M: Tensor, queries: tuple[int, int]) -> Tensor:
        for edit in edits:
            M = _edit_rows(edit, M, queries, heads, o)
        return M

    return change_of_rows(o, x, heads, change)


def _edit_rows(
    edit: Edit, M: Tensor, queries: tuple[int, int], heads: list[int], of: Operator
) -> Tensor:
    """Apply an edit to rows of M, of these heads of an operator."""
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
        raise UsageError("the input of this layer's scan cannot be read")
    return o.x.to(scan_dtype(o.like))
