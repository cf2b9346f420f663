"""The record of one layer's call: its operands, computed and checked at the first read."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.notebook import ShownInNotebooks
from ssmlens.recorder.calls import MixerCall, hooks_inside
from ssmlens.recorder.closure import Closure, closure, failed_error, tolerance
from ssmlens.recorder.fingerprint import Fingerprint
from ssmlens.scan.hidden_attention import attention_map
from ssmlens.scan.operator import Operator

log = logging.getLogger("ssmlens")


class LayerRecord(ShownInNotebooks):
    """The token mixing of one block in the last forward: its call and, on demand, its operands and their closure.

    Operands are recomputed at the first read, from a copy of the mixer's input and from its weights. If closure fails,
    a warning is logged.
    """

    def __init__(self, call: MixerCall):
        self.call = call
        self._weights = Fingerprint(call.site.module)
        self._hooks = hooks_inside(call.site.module)

    @property
    def layer(self) -> int:
        """Number of the block."""
        return self.call.site.layer

    @cached_property
    def operands(self) -> Operator:
        """The operands, with x, D and gate if the layer has them.

        Logs a warning if closure fails (`doubt`).

        Raises:
            SsmlensError: The weights have changed since the recording.
        """
        operands = self._operands
        if self.doubt and not self._removed_hooks:
            log.warning(
                "layer %s: its output does not follow from these operands (%s): its settings, weights or input changed "
                "since the forward, or an edit or a hook changed its output",
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
                "read .operands before the next training step"
            )
        if self._removed_hooks:
            log.warning(
                "layer %s: the hooks on %s were removed since the recording, so its operands are computed without "
                "them; read .operands before removing hooks, or see .closure_error",
                self.layer,
                ", ".join(self._removed_hooks),
            )
        return self.call.operands()

    @property
    def _removed_hooks(self) -> list[str]:
        """The layers inside the mixer with hooks that were removed since the forward."""
        removed = self._hooks - hooks_inside(self.call.site.module)
        return sorted({name for name, _ in removed})

    @cached_property
    def attention_map(self) -> Float[Tensor, "batch query key"]:
        """The mean of M over the heads."""
        with torch.set_grad_enabled(self.call.gradients):
            return attention_map(self.operands)

    def states(self, at: int | Sequence[int]) -> Float[Tensor, "batch at head headdim state"]:
        """The state h_t after the write of some tokens: h_t = Ā_t h_{t−1} + B̄_t x_t; in a delta rule S_t [d_v d_k].

        In Mamba-3 it includes what token t writes at t + 1. `Set(what="state", tokens=t, value=…)` inserts a state.

        Args:
            at: Token positions in the tensors, padding included; negative ones count from the end.

        Raises:
            UsageError: A token is out of range, or the layer has no state (softmax attention).
        """
        operands = self.operands
        tokens = [at] if isinstance(at, int) else list(at)
        for token in tokens:
            if not -operands.tokens <= token < operands.tokens:
                raise UsageError(f"token {token} is out of range: there are {operands.tokens}")
        if operands.x is None:
            raise UsageError(f"layer {self.layer}: its values cannot be read")
        x = operands.x
        with torch.no_grad():
            states = [operands.state_after(x, token % operands.tokens) for token in tokens]
        return torch.stack(states, dim=1)

    @cached_property
    def closure(self) -> Closure:
        """The closure of the operands, per sequence."""
        site = self.call.site
        with torch.no_grad(), self.call.precision():
            return closure(site.adapter, site.module, self._operands, self.call.output)

    @property
    def doubt(self) -> str:
        """The error that is above its tolerance, so that closure fails; "" if closure passes."""
        limit = tolerance(self.call.output, self.call.site.adapter)
        return failed_error(self.closure, limit)

    @property
    def closure_error(self) -> float:
        """The largest closure error over the batch: ‖recomputed − output‖ / ‖output‖.

        NaN if the output cannot be recomputed (`closure.reason` says why).
        """
        return float(self.closure.error.max())

    @property
    def map_closure(self) -> float:
        """The same difference relative to the map's contribution (`Closure.map_error`), the largest over the batch.

        NaN if it is not known.
        """
        return float(self.closure.map_error.max())

    def __repr__(self) -> str:
        shape = tuple(self.call.given.hidden.shape)
        site = self.call.site
        return f"LayerRecord(layer {self.layer}, {site.adapter.family}, input {shape})"


def only(calls: Sequence[LayerRecord]) -> LayerRecord:
    """Return the record of a layer's only call. Raises UsageError if there are several."""
    record, *later = calls
    if later:
        raise UsageError(
            f"layer {record.layer}: {record.call.site.name} ran {len(calls)} times in one forward: "
            f"rec.calls({record.layer}) has a record of each"
        )
    return record


class Records(Mapping[int, LayerRecord]):
    """The records of the last forward, by layer, if each layer was called once; else see `calls`."""

    def __init__(self) -> None:
        self._calls: dict[int, list[LayerRecord]] = {}

    def add(self, record: LayerRecord) -> None:
        """Add a record to those of the same forward; the records of an earlier forward are dropped."""
        if record.call.number == 0:
            self._calls[record.layer] = []
        self._calls[record.layer].append(record)

    def calls(self, layer: int) -> tuple[LayerRecord, ...]:
        """The records of all calls of a layer in the last forward."""
        return tuple(self._calls[layer])

    def __getitem__(self, layer: int) -> LayerRecord:
        """The record of a layer. Raises UsageError if it was called several times."""
        return only(self._calls[layer])

    def __contains__(self, layer: object) -> bool:
        return layer in self._calls

    def __iter__(self) -> Iterator[int]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return repr({layer: list(self.calls(layer)) for layer in self})
