"""`recording(model)`: look into any model at hand, without a file."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import nn

from ssmlens.adapters.find import MixerSite, find_mixers
from ssmlens.errors import SsmlensError, UsageError
from ssmlens.recorder.closure import Closure, closure
from ssmlens.recorder.hooks import MixerCall, hooked
from ssmlens.scan.operands import ScanOperands


class LayerRecord:
    """What one mixer did in the last forward: its call, and on demand its operands and their proof.

    Operands are recomputed when first asked for, from the mixer's input and weights.
    """

    def __init__(self, call: MixerCall):
        self.call = call
        self._weights = _versions(call.site.module)

    @property
    def layer(self) -> int:
        """Index of the block."""
        return self.call.site.layer

    @cached_property
    def operands(self) -> ScanOperands:
        """The operands of the scan, with x, D and gate. Raises SsmlensError if the weights have changed since."""
        if _versions(self.call.site.module) != self._weights:
            raise SsmlensError(
                f"layer {self.layer}: the weights have changed since the recording; "
                "read .operands before training on"
            )
        return self.call.operands()

    @cached_property
    def closure(self) -> Closure:
        """How far the operands are from what the mixer put out, by sequence."""
        operands = self.operands
        with torch.no_grad(), self.call.precision():
            return closure(
                self.call.site.adapter, self.call.site.module, operands, self.call.output
            )

    @property
    def closure_error(self) -> float:
        """The largest closure error over the batch: ‖recomputed − output‖ / ‖output‖."""
        return float(self.closure.error.max())

    def __repr__(self) -> str:
        shape = tuple(self.call.given.hidden.shape)
        return f"LayerRecord(layer {self.layer}, {self.call.site.adapter.family}, input {shape})"


class Recording:
    """What `recording` recorded: `rec.layers`, and `rec[layer]` for each. A later forward replaces an earlier one."""

    def __init__(self):
        self._records: dict[int, LayerRecord] = {}

    @property
    def layers(self) -> list[int]:
        """Block indices recorded, ascending."""
        return sorted(self._records)

    def __getitem__(self, layer: int) -> LayerRecord:
        """The record of a layer. Raises UsageError when it was not recorded, naming what was."""
        if layer not in self._records:
            known = f"recorded are {self.layers}" if self._records else "nothing is: call the model"
            raise UsageError(f"layer {layer} was not recorded; {known}")
        return self._records[layer]

    def __iter__(self) -> Iterator[LayerRecord]:
        return (self._records[layer] for layer in self.layers)

    def __len__(self) -> int:
        return len(self._records)

    def _add(self, call: MixerCall) -> None:
        given = dataclasses.replace(call.given, hidden=call.given.hidden.detach())
        kept = dataclasses.replace(call, given=given, output=call.output.detach())
        self._records[call.site.layer] = LayerRecord(kept)


@contextmanager
def recording(model: nn.Module, layers: Sequence[int] | None = None) -> Iterator[Recording]:
    """Record what the Mamba layers of `model` compute inside the `with` block.

        with ssmlens.recording(model) as rec:
            model(input_ids)
        rec[31].operands, rec[31].closure_error

    Any mamba_ssm, transformers or ssmlens model, as it is. Its outputs do not change; the hooks are gone afterwards.

    Args:
        model: The model.
        layers: Block indices to record. None: all.

    Raises:
        UnsupportedModelError: No layer of the model can be read.
        UsageError: A layer is out of range.
    """
    rec = Recording()
    with hooked(choose_sites(find_mixers(model), layers), rec._add):
        yield rec


def choose_sites(sites: list[MixerSite], layers: Sequence[int] | None) -> list[MixerSite]:
    """The mixers of these block indices. Raises UsageError for an index that has none, and where none is asked for."""
    known = [site.layer for site in sites]
    if layers is not None and not layers:
        raise UsageError(f"no layer is asked for: this model has Mamba layers {_ranges(known)}")
    for layer in layers or ():
        if layer not in known:
            raise UsageError(
                f"layer {layer} is out of range: this model has Mamba layers {_ranges(known)}"
            )
    return [site for site in sites if layers is None or site.layer in layers]


def _ranges(layers: list[int]) -> str:
    if layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}..{layers[-1]}"
    return ", ".join(map(str, layers))


def _versions(module: nn.Module) -> list[tuple[int, int]]:
    return [(p.data_ptr(), -1 if p.is_inference() else p._version) for p in module.parameters()]
