"""Edits of the convolution before the scan. They project the operands again, with other taps or from a later token."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import MixerSite
from ssmlens.edits.edit import Edit
from ssmlens.edits.positions import Positions
from ssmlens.edits.value import CONV_AXES, CutTaps, Place, ValueEdit
from ssmlens.errors import UsageError
from ssmlens.scan.operator import Operator


def is_of_convolution(edit: Edit) -> bool:
    """Whether an edit changes the taps, or cuts them at a token."""
    return isinstance(edit, CutTaps) or (isinstance(edit, ValueEdit) and edit.what == "conv")


def project_again(
    site: MixerSite,
    given: MixerInput,
    positions: Positions,
    operands: Operator,
    edits: Sequence[Edit],
) -> Operator:
    """The operands after these edits of the convolution. Every head has its own copy if it has one in `operands`.

    Raises:
        UsageError: An edit sets taps, but the mixer has no convolution before its scan. Or the convolution looks ahead.
    """
    if not operands.is_causal:
        raise UsageError(
            f"{edits[0]}: the convolution of a {operands.kind} looks ahead; edit its operands instead"
        )
    of_taps = [edit for edit in edits if isinstance(edit, ValueEdit)]
    around = operands.surroundings
    before_scan = around is not None and around.u is not None
    taps = {
        f"mixer.{name}.weight": module.weight
        for name, module in site.module.named_modules()
        if before_scan and isinstance(module, nn.Conv1d)
    }
    if of_taps and not taps:
        mixing = "taps" in operands.quantities
        hint = ": its taps are M itself; knock out lags, or edit 'taps'" if mixing else ""
        raise UsageError(f"{of_taps[0]}: the mixer has no convolution before its scan{hint}")
    if not taps:
        return operands
    cuts = [edit for edit in edits if isinstance(edit, CutTaps)]
    projection = _Projection(site)
    # The edits that apply at each token, as a sum of bits: 1 for the first edit, 2 for the second, 4 for the third …
    chosen = [positions.chosen(edit.tokens) for edit in of_taps]
    edits_at = sum(
        (mask.long() << n for n, mask in enumerate(chosen)), torch.zeros_like(positions.here)
    )
    out = operands
    for pattern in edits_at.unique().tolist():
        some = [edit for n, edit in enumerate(of_taps) if pattern >> n & 1]
        changed = {name: _edit_taps(some, weight, positions) for name, weight in taps.items()}
        new = _project_after_cuts(projection, changed, given, positions, cuts)
        if operands.groups == operands.heads:
            new = new.over_heads()
        out = new if bool((edits_at == pattern).all()) else out.where(edits_at == pattern, new)
    needs_grad = torch.is_grad_enabled() and any(edit.is_differentiable for edit in of_taps)
    return out if needs_grad or not _same(out, operands) else operands


def _same(one: Operator, other: Operator) -> bool:
    """Whether all operands that depend on the convolution are equal.

    Then the caller keeps the old ones: equal values in another memory layout would round differently later.
    """
    names = [
        name
        for name in one.quantities
        if name in (*one.axes, "x", "gate") and getattr(one, name) is not None
    ]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def _edit_taps(edits: Sequence[ValueEdit], weight: Tensor, positions: Positions) -> Tensor:
    taps = weight.flatten(1)
    for edit in edits:
        everywhere = dataclasses.replace(edit, tokens=None)
        taps = everywhere.apply(taps, Place("conv", CONV_AXES, positions))
    return taps.view_as(weight)


def _project_after_cuts(
    projection: "_Projection",
    weights: dict[str, Tensor],
    given: MixerInput,
    positions: Positions,
    cuts: Sequence[CutTaps],
) -> Operator:
    """Project all tokens. Then, for every cut, project the tokens after it alone."""

    def project(of: MixerInput) -> Operator:
        return torch.func.functional_call(projection, weights, (of,))

    projected = project(given)
    by_length = any(cut.tokens.counts_back for cut in cuts)
    for rows, first, end in positions.groups(by_length=by_length) if cuts else ():
        length = end - first
        masks = [cut.tokens.clipped(length, length) for cut in cuts]
        for token in torch.stack(masks).any(0).nonzero().flatten().tolist():
            start = first + token + 1
            later = given.map(lambda tensor, start=start, rows=rows: tensor[rows, start:])
            projected = projected.with_rows(rows, start, project(later))
    return projected


class _Projection(nn.Module):
    """A mixer's projection as a module, so that `functional_call` can give it other weights."""

    def __init__(self, site: MixerSite):
        super().__init__()
        self.mixer = site.module
        self._project = site.adapter.project

    def forward(self, given: MixerInput) -> Operator:
        return self._project(self.mixer, given)
