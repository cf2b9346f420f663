"""The record of one layer's call: its operands, computed when they are read, and checked then."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.notebook import ShownInNotebooks
from ssmlens.recorder.calls import MixerCall, hooks_inside
from ssmlens.recorder.closure import Closure, closure, doubt, tolerance
from ssmlens.recorder.fingerprint import Fingerprint
from ssmlens.scan.hidden_attention import attention_map
from ssmlens.scan.operator import Operator

log = logging.getLogger("ssmlens")


class LayerRecord(ShownInNotebooks):
    """What mixed the tokens of one block in the last forward: its call, and on demand its operands and how they close.

    Operands are recomputed when first asked for, from a copy of the mixer's input and from its weights; then they must
    give what the mixer put out, or a warning is logged.
    """

    def __init__(self, call: MixerCall):
        self.call = call
        self._weights = Fingerprint(call.site.module)
        self._hooks = hooks_inside(call.site.module)

    @property
    def layer(self) -> int:
        """Index of the block."""
        return self.call.site.layer

    @cached_property
    def operands(self) -> Operator:
        """The operands, with x, D and gate where there are such.

        Logs a warning where the layer's output does not follow from them (`doubt`).

        Raises:
            SsmlensError: The weights have changed since the recording.
        """
        operands = self._operands
        if self.doubt and not self._gone_hooks:
            log.warning(
                "layer %s: its output does not follow from these operands (%s): its settings, weights or input changed "
                "since the forward, or an edit or a hook changed what it put out",
                self.layer,
                self.doubt,
            )
        return operands

    @cached_property
    def _operands(self) -> Operator:
        """The operands, unchecked."""
        if not self._weights.matches(self.call.site.module):
            raise SsmlensError(
                f"layer {self.layer}: the weights have changed since the recording; "
                "read .operands before training on"
            )
        if self._gone_hooks:
            log.warning(
                "layer %s: the hooks on %s were taken off since the recording, and its operands are computed without "
                "them; read .operands before taking them off, or see .closure_error",
                self.layer,
                ", ".join(self._gone_hooks),
            )
        return self.call.operands()

    @property
    def _gone_hooks(self) -> list[str]:
        """On which layers inside the mixer hooks stood in the forward that are gone."""
        gone = self._hooks - hooks_inside(self.call.site.module)
        return sorted({name for name, _ in gone})

    @cached_property
    def attention_map(self) -> Float[Tensor, "batch query key"]:
        """The mean of M over the heads."""
        with torch.set_grad_enabled(self.call.gradients):
            return attention_map(self.operands)

    def states(self, at: int | Sequence[int]) -> Float[Tensor, "batch at head headdim state"]:
        """The state h_t after the write of some tokens: h_t = Ā_t h_{t−1} + B̄_t x_t; of a delta rule S_t [d_v d_k].

        In Mamba-3 it has what token t still writes at t + 1. `Set(what="state", tokens=t, value=…)` puts one back.

        Args:
            at: Tokens, counted as in the tensors, padding included; negative ones from the end.

        Raises:
            UsageError: A token is out of range, or the layer has no state (softmax attention).
        """
        operands = self.operands
        tokens = [at] if isinstance(at, int) else list(at)
        for token in tokens:
            if not -operands.tokens <= token < operands.tokens:
                raise UsageError(f"token {token} is out of range: there are {operands.tokens}")
        if operands.x is None:
            raise UsageError(f"layer {self.layer}: what it mixes cannot be read")
        x = operands.x
        with torch.no_grad():
            states = [operands.state_after(x, token % operands.tokens) for token in tokens]
        return torch.stack(states, dim=1)

    @cached_property
    def closure(self) -> Closure:
        """How far the operands are from what the mixer put out, by sequence."""
        site = self.call.site
        with torch.no_grad(), self.call.precision():
            return closure(site.adapter, site.module, self._operands, self.call.output)

    @property
    def doubt(self) -> str:
        """Why the operands cannot be what the layer computed with, or "": which error is above its tolerance."""
        limit = tolerance(self.call.output, self.call.site.adapter)
        return doubt(self.closure, limit)

    @property
    def closure_error(self) -> float:
        """The largest closure error over the batch: ‖recomputed − output‖ / ‖output‖.

        NaN where the output cannot be computed again (`closure.reason` says why).
        """
        return float(self.closure.error.max())

    @property
    def map_closure(self) -> float:
        """The largest over the batch of the same difference beside what the map contributes (`Closure.map_error`).

        NaN where that is not known.
        """
        return float(self.closure.map_error.max())

    def __repr__(self) -> str:
        shape = tuple(self.call.given.hidden.shape)
        site = self.call.site
        return f"LayerRecord(layer {self.layer}, {site.adapter.family}, input {shape})"


def only(calls: Sequence[LayerRecord]) -> LayerRecord:
    """The record of a layer's one call. Raises UsageError where there are several: which is meant is not known."""
    record, *others = calls
    if others:
        raise UsageError(
            f"layer {record.layer}: {record.call.site.name} ran {len(calls)} times in one forward: "
            f"rec.calls({record.layer}) has a record of each"
        )
    return record


class Records(Mapping[int, LayerRecord]):
    """The records of the last forward, by layer: each of the one call that the layer made."""

    def __init__(self) -> None:
        self._calls: dict[int, list[LayerRecord]] = {}

    def add(self, record: LayerRecord) -> None:
        """Take in a record: beside those of the same forward, in the place of those of an earlier one."""
        if record.call.number == 0:
            self._calls[record.layer] = []
        self._calls[record.layer].append(record)

    def calls(self, layer: int) -> tuple[LayerRecord, ...]:
        """The records of all calls of a layer in the last forward."""
        return tuple(self._calls[layer])

    def __getitem__(self, layer: int) -> LayerRecord:
        """The record of a layer. Raises UsageError where it made several calls."""
        return only(self._calls[layer])

    def __contains__(self, layer: object) -> bool:
        return layer in self._calls

    def __iter__(self) -> Iterator[int]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return repr({layer: list(self.calls(layer)) for layer in self})
