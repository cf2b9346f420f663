"""`recording(model)`: look into any model at hand, without a file."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.blocks import find_blocks
from ssmlens.errors import SsmlensError, UsageError
from ssmlens.recorder.calls import AttentionCall, MixerCall, versions
from ssmlens.recorder.choose import choose_blocks, why_not
from ssmlens.recorder.closure import Closure, closure
from ssmlens.recorder.hooks import hooked
from ssmlens.scan.operator import Operator


class LayerRecord:
    """What one mixer did in the last forward: its call, and on demand its operands and their proof.

    Operands are recomputed when first asked for, from the mixer's input and weights.
    """

    def __init__(self, call: MixerCall):
        self.call = call
        self._weights = versions(call.site.module)

    @property
    def layer(self) -> int:
        """Index of the block."""
        return self.call.site.layer

    @cached_property
    def operands(self) -> Operator:
        """The operands of the scan, with x, D and gate. Raises SsmlensError if the weights have changed since."""
        _check_unchanged(self.call, self._weights, ".operands")
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


class AttentionRecord:
    """What the softmax attention of one block did in the last forward."""

    def __init__(self, call: AttentionCall):
        self.call = call
        self._weights = versions(call.site.module)

    @property
    def layer(self) -> int:
        """Index of the block."""
        return self.call.site.layer

    @cached_property
    def attention_map(self) -> Float[Tensor, "batch query key"]:
        """The mean of the weights over the heads. Raises SsmlensError if the module's weights have changed since."""
        self._check()
        return self.call.attention_map()

    @property
    def weights(self) -> Float[Tensor, "batch head query key"]:
        """The softmax weights of every head. Raises SsmlensError if the module's weights have changed since."""
        self._check()
        return self.call.weights()

    @property
    def operands(self) -> Operator:
        """Raises UsageError: softmax attention has none."""
        raise UsageError(self._has_no("operands"))

    @property
    def closure_error(self) -> float:
        """Raises UsageError: softmax attention has none."""
        raise UsageError(self._has_no("closure"))

    def _check(self) -> None:
        if self.call.site.computed:
            _check_unchanged(self.call, self._weights, ".weights")

    def _has_no(self, what: str) -> str:
        return f"layer {self.layer} is softmax attention: it has no {what}; see .attention_map"

    def __repr__(self) -> str:
        return f"AttentionRecord(layer {self.layer}, {type(self.call.site.module).__name__})"


class Recording:
    """What `recording` recorded: `rec.layers`, and `rec[layer]` for each. A later forward replaces an earlier one.

    Attributes:
        softmax_attention: The record of every block with softmax attention, those with a mixer beside it too.
    """

    def __init__(self, why_not: Mapping[int, str]):
        self.softmax_attention: dict[int, AttentionRecord] = {}
        self._mixers: dict[int, LayerRecord] = {}
        self._why_not = why_not

    @property
    def layers(self) -> list[int]:
        """Block indices recorded, ascending."""
        return sorted({*self._mixers, *self.softmax_attention})

    def __getitem__(self, layer: int) -> LayerRecord | AttentionRecord:
        """The record of a layer: of its mixer, where it has one. Raises UsageError when it was not recorded."""
        if layer in self._mixers:
            return self._mixers[layer]
        if layer in self.softmax_attention:
            return self.softmax_attention[layer]
        if layer in self._why_not:
            raise UsageError(f"layer {layer} was not recorded; it is {self._why_not[layer]}")
        known = f"recorded are {self.layers}" if len(self) else "nothing is: call the model"
        raise UsageError(f"layer {layer} was not recorded; {known}")

    def __iter__(self) -> Iterator[LayerRecord | AttentionRecord]:
        return (self[layer] for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def _add(self, call: MixerCall | AttentionCall) -> None:
        if isinstance(call, MixerCall):
            self._mixers[call.site.layer] = LayerRecord(call.detached())
        else:
            self.softmax_attention[call.site.layer] = AttentionRecord(call.detached())


@contextmanager
def recording(model: nn.Module, layers: Sequence[int] | None = None) -> Iterator[Recording]:
    """Record what the Mamba layers of `model` compute inside the `with` block.

        with ssmlens.recording(model) as rec:
            model(input_ids)
        rec[31].operands, rec[31].closure_error

    Any mamba_ssm, transformers or ssmlens model, as it is. Its outputs do not change; the hooks are gone afterwards.
    Of a hybrid's softmax attention the weights are recorded, where the model puts them out
    (`attn_implementation="eager"`): `rec[4].attention_map`, or `rec.softmax_attention[4]` beside a mixer.

    Args:
        model: The model.
        layers: Block indices to record. None: all.

    Raises:
        UnsupportedModelError: No layer of the model can be read.
        UsageError: A layer is out of range, or nothing in it mixes tokens.
    """
    blocks = find_blocks(model)
    rec = Recording({block.layer: why for block in blocks if (why := why_not(block))})
    with hooked(choose_blocks(blocks, layers), rec._add):
        yield rec


def _check_unchanged(
    call: MixerCall | AttentionCall, weights: list[tuple[int, int]], what: str
) -> None:
    if versions(call.site.module) != weights:
        raise SsmlensError(
            f"layer {call.site.layer}: the weights have changed since the recording; "
            f"read {what} before training on"
        )
