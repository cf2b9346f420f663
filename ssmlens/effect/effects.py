"""`effects(model, prompts, edits)`: the effect of each edit at the targets of prompts."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ssmlens.edits.context import edits_of
from ssmlens.edits.edit import Edit
from ssmlens.edits.resume import UneditedRun
from ssmlens.effect.measure import MEASURES, Measure, Readout
from ssmlens.effect.probe import Probe
from ssmlens.errors import UsageError
from ssmlens.recorder.calls import logits_of, without_cache
from ssmlens.recorder.prompts import Prompts
from ssmlens.recorder.recording import recording

CORRUPTED = "corrupted"
"""The source of an edit that takes its values from each prompt's corrupted twin."""

Group = Edit | Mapping[str, Any] | Sequence[Edit | Mapping[str, Any]]
"""An edit, its JSON, or several that are applied together."""

# Most tokens of a batch.
_TOKENS = 16384


def effects(
    model: nn.Module,
    prompts: Prompts | Probe,
    edits: Sequence[Group],
    measure: str = "log_probability",
    *,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Measure the effect of each edit on the model's predictions at the targets of prompts.

        effects(model, Prompts.of_task("copy", model), [Ablate(layer=i) for i in range(4)])

    At a query whose target is token j, the right answer is a copy of token j. Layers are run from the edited one on. A
    `Swap` or an `Ablate` with source "corrupted" takes its values from the twin of each prompt (`Probe.corrupted`).

    Args:
        model: Any model that can be recorded.
        prompts: Prompts with targets, or a probe (`ssmlens.effect.probe.probe`). Without targets only "kl" can be
            measured, at every position.
        edits: The edits; those of a nested list are applied together.
        measure: "log_probability" of the right token, its "logit", "logit_difference" to the foil, "accuracy",
            "rank", or "kl".
        progress: Called with (edits done, edits), summed over batches of prompts.

    Returns:
        A Dataset of `before` (prompt), `after` and `effect` = after − before (edit, prompt), means over each prompt's
        targets in the measure's unit, with the coordinates `layer` and `prompt_text`. NaN for a prompt without a target
        that the measure can use.

    Raises:
        UsageError: No prompt has what the measure needs, the measure is unknown, there is no edit, or as `editing`.
    """
    measuring, probe = MEASURES[measure], Probe.of(prompts)
    groups = [edits_of(group) for group in edits]
    if not groups:
        raise UsageError("give at least one edit")
    _check(probe, measuring, measure)
    before = np.full(len(probe.prompts), np.nan)
    after = np.full((len(groups), len(probe.prompts)), np.nan)
    batches = list(_batches(probe.prompts))
    for number, rows in enumerate(batches):
        run = _Batch(model, probe, rows, measuring)
        before[rows] = run.unedited()
        for n, group in enumerate(groups):
            after[n, rows] = run.edited(group)
            if progress is not None:
                progress(number * len(groups) + n + 1, len(batches) * len(groups))
    return _dataset(groups, probe.prompts, before, after, measure, measuring)


class _Batch:
    """Prompts of one length, run at once."""

    def __init__(self, model: nn.Module, probe: Probe, rows: list[int], measure: Measure):
        self._model, self._probe, self._rows, self._measure = model, probe, rows, measure
        self._device = next(model.parameters()).device
        with torch.no_grad():
            self._run = UneditedRun(model, self._ids(probe.prompts), **without_cache(model))
        self._before = logits_of(self._run.output)
        self._corrupted: Any = None

    def unedited(self) -> list[float]:
        """The measure of every prompt."""
        return self._measure_prompts(self._before)

    def edited(self, edits: Sequence[Edit]) -> list[float]:
        """The measure of every prompt with these edits."""
        with torch.no_grad():
            edited = self._run.edited([self._with_source(edit) for edit in edits])
            return self._measure_prompts(logits_of(edited))

    def _measure_prompts(self, logits: Tensor) -> list[float]:
        out = []
        for n, prompt in enumerate(self._rows):
            where = self._probe.positions(prompt)
            right, foil = self._probe.right(prompt), self._probe.foils(prompt)
            used = (
                foil >= 0 if self._measure.needs_foil else torch.ones_like(where, dtype=torch.bool)
            )
            if not bool(used.any()):
                out.append(np.nan)
                continue
            at = where[used].to(logits.device)
            readout = Readout(
                logits[n, at].double(),
                self._before[n, at].double(),
                right[used].to(logits.device),
                foil[used].to(logits.device),
            )
            out.append(float(self._measure.measure(readout).mean()))
        return out

    def _with_source(self, edit: Edit) -> Edit:
        """Replace the source "corrupted" by a recording of the twins."""
        if getattr(edit, "source", None) != CORRUPTED:
            return edit
        if self._corrupted is None:
            twins = self._probe.corrupted
            if twins is None:
                raise UsageError(f"{edit}: these prompts have no corrupted twin")
            with torch.no_grad(), recording(self._model) as self._corrupted:
                self._model(self._ids(twins), **without_cache(self._model))
        changed: dict[str, Any] = {"source": self._corrupted}
        return dataclasses.replace(edit, **changed)

    def _ids(self, prompts: Prompts) -> Tensor:
        return torch.tensor([prompts.tokens[row] for row in self._rows], device=self._device)


def _batches(prompts: Prompts) -> Iterator[list[int]]:
    """Split prompts into batches of equal length, with at most `_TOKENS` tokens each."""
    by_length = defaultdict(list)
    for row, length in enumerate(prompts.length):
        by_length[length].append(row)
    for length, rows in by_length.items():
        size = max(1, _TOKENS // length)
        for first in range(0, len(rows), size):
            yield rows[first : first + size]


def _check(probe: Probe, measure: Measure, name: str) -> None:
    targets = [target for target in probe.prompts.target if target is not None]
    if not targets and not measure.of_change:
        raise UsageError(
            f"{name} needs targets, and no prompt has one: make prompts with a task or a probe, pass their targets, "
            "or measure kl"
        )
    if measure.needs_foil and all(foil is None for foil in probe.foil):
        raise UsageError(f"{name} needs a foil, and these prompts have none: use a probe")


def _dataset(
    groups: Sequence[Sequence[Edit]],
    prompts: Prompts,
    before: np.ndarray,
    after: np.ndarray,
    name: str,
    measure: Measure,
) -> xr.Dataset:
    layers = [group[0].layer if len({e.layer for e in group}) == 1 else -1 for group in groups]
    unit = {"units": measure.unit, "long_name": measure.description}
    return xr.Dataset(
        {
            "before": ("prompt", before, unit),
            "after": (("edit", "prompt"), after, unit),
            "effect": (("edit", "prompt"), after - before, unit),
        },
        coords={
            "edit": [", ".join(map(str, group)) for group in groups],
            "layer": ("edit", layers, {"long_name": "edited block; −1: several"}),
            "prompt_text": ("prompt", list(prompts.texts)),
        },
        attrs={"measure": name},
    )
