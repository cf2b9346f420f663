"""`recording(model)`: record the layers of a model in memory, without a file."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.softmax import SOFTMAX
from ssmlens.errors import UsageError
from ssmlens.recorder.calls import MixerCall
from ssmlens.recorder.choose import choose_blocks, why_not
from ssmlens.recorder.hooks import hooked
from ssmlens.recorder.layer_record import LayerRecord, Records, only


class Recording:
    """The recorded layers: `rec.layers` lists them, `rec[layer]` is one. A later forward replaces an earlier one.

    Attributes:
        softmax_attention: The records of every block's softmax attention, also beside another mixer.
    """

    def __init__(self, why_not: Mapping[int, str], gradients: bool = False):
        self.softmax_attention = Records()
        self._mixers = Records()
        self._why_not = why_not
        self._gradients = gradients

    @property
    def layers(self) -> list[int]:
        """Recorded block numbers, ascending."""
        return sorted({*self._mixers, *self.softmax_attention})

    def __getitem__(self, layer: "int | LayerRecord") -> LayerRecord:
        """The record of a layer, of its mixer if it has one.

        Raises:
            UsageError: The layer was not recorded, or ran several times in one forward (read `calls` then).
        """
        if isinstance(layer, LayerRecord):  # `for record in rec: rec[record]`
            layer = layer.layer
        return only(self.calls(layer))

    def calls(self, layer: int) -> tuple[LayerRecord, ...]:
        """The records of all calls of a layer's mixer in the last forward: one in nearly every model.

        Raises:
            UsageError: The layer was not recorded.
        """
        for records in (self._mixers, self.softmax_attention):
            if layer in records:
                return records.calls(layer)
        if layer in self._why_not:
            raise UsageError(f"layer {layer} was not recorded; it is {self._why_not[layer]}")
        known = f"recorded are {self.layers}" if len(self) else "no layer is: call the model"
        raise UsageError(f"layer {layer} was not recorded; {known}")

    def __iter__(self) -> Iterator[LayerRecord]:
        return (self[layer] for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return f"<Recording of layers {self.layers}>"

    def _add(self, call: MixerCall) -> None:
        attends = call.site.adapter is SOFTMAX
        records = self.softmax_attention if attends else self._mixers
        records.add(LayerRecord(call.with_gradients() if self._gradients else call.copied()))


@contextmanager
def recording(
    model: nn.Module, layers: int | Sequence[int] | None = None, *, gradients: bool = False
) -> Iterator[Recording]:
    """Record what the Mamba layers of `model` compute inside the `with` block.

        with ssmlens.recording(model) as rec:
            model(input_ids)
        rec[31].operands, rec[31].closure_error

    Any mamba_ssm, transformers or ssmlens model can be recorded, without changes to it or its outputs. The hooks are
    removed at the end. A compiled model runs uncompiled inside the block.
    The weights of a hybrid's softmax attention are recorded if the model returns them (`attn_implementation="eager"`):
    `rec[4].attention_map`, or `rec.softmax_attention[4]` beside a mixer.
    Inputs and outputs are copied. The first read of a layer's operands also recomputes its output to check them, which
    takes about three times as long as the operands alone (analyses/benchmarks).
    A mixer that blocks share is recorded under each of them. If a block calls its mixer several times in a forward,
    `rec.calls(4)` has every call.

    Args:
        model: The model.
        layers: Block numbers to record, or one. None: all.
        gradients: Whether operands, and results computed from them, are differentiable back to the model's weights and
            embeddings: `channel_maps(rec[1].operands, [0]).sum().backward()`. All layers share the graph of one
            forward, which stays in memory: sum the results first, or pass `retain_graph=True`.

    Raises:
        UnsupportedModelError: No layer of the model can be read.
        UsageError: A layer is out of range, or nothing in it mixes tokens. In the model's call: with `gradients`, the
            model runs under `torch.no_grad()`.
    """
    blocks = find_blocks(model)
    layers = [layers] if isinstance(layers, int) else layers
    reasons = {block.layer: why for block in blocks if (why := why_not(block))}
    rec = Recording(reasons, gradients)
    with hooked(model, choose_blocks(blocks, layers), rec._add):
        yield rec
