"""`recording(model)`: look into any model at hand, without a file."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.softmax import SOFTMAX
from ssmlens.errors import SsmlensError, UsageError
from ssmlens.notebook import ShownInNotebooks
from ssmlens.recorder.calls import MixerCall, hooks_inside, versions
from ssmlens.recorder.choose import choose_blocks, why_not
from ssmlens.recorder.closure import Closure, closure
from ssmlens.recorder.hooks import hooked
from ssmlens.scan.hidden_attention import attention_map
from ssmlens.scan.operator import Operator

log = logging.getLogger("ssmlens")


class LayerRecord(ShownInNotebooks):
    """What mixed the tokens of one block in the last forward: its call, and on demand its operands and their proof.

    Operands are recomputed when first asked for, from the mixer's input and weights.
    """

    def __init__(self, call: MixerCall):
        self.call = call
        self._weights = versions(call.site.module)
        self._hooks = hooks_inside(call.site.module)

    @property
    def layer(self) -> int:
        """Index of the block."""
        return self.call.site.layer

    @cached_property
    def operands(self) -> Operator:
        """The operands, with x, D and gate where there are such. Raises SsmlensError if the weights have changed."""
        if versions(self.call.site.module) != self._weights:
            raise SsmlensError(
                f"layer {self.layer}: the weights have changed since the recording; "
                "read .operands before training on"
            )
        if gone := self._hooks - hooks_inside(self.call.site.module):
            log.warning(
                "layer %s: the hooks on %s were taken off since the recording, and its operands are computed without "
                "them; read .operands before taking them off, or see .closure_error",
                self.layer,
                ", ".join(sorted({name for name, _ in gone})),
            )
        return self.call.operands()

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
        site, operands = self.call.site, self.operands
        with torch.no_grad(), self.call.precision():
            return closure(site.adapter, site.module, operands, self.call.output)

    @property
    def closure_error(self) -> float:
        """The largest closure error over the batch: ‖recomputed − output‖ / ‖output‖.

        NaN where the output cannot be computed again (`closure.reason` says why).
        """
        return float(self.closure.error.max())

    def __repr__(self) -> str:
        shape = tuple(self.call.given.hidden.shape)
        site = self.call.site
        return f"LayerRecord(layer {self.layer}, {site.adapter.family}, input {shape})"


class Recording:
    """What `recording` recorded: `rec.layers`, and `rec[layer]` for each. A later forward replaces an earlier one.

    Attributes:
        softmax_attention: The record of every block's softmax attention, those with another mixer beside it too.
    """

    def __init__(self, why_not: Mapping[int, str], gradients: bool = False):
        self.softmax_attention: dict[int, LayerRecord] = {}
        self._mixers: dict[int, LayerRecord] = {}
        self._why_not = why_not
        self._gradients = gradients

    @property
    def layers(self) -> list[int]:
        """Block indices recorded, ascending."""
        return sorted({*self._mixers, *self.softmax_attention})

    def __getitem__(self, layer: "int | LayerRecord") -> LayerRecord:
        """The record of a layer: of its mixer, where it has one. Raises UsageError when it was not recorded."""
        if isinstance(layer, LayerRecord):  # `for record in rec: rec[record]`
            layer = layer.layer
        if layer in self._mixers:
            return self._mixers[layer]
        if layer in self.softmax_attention:
            return self.softmax_attention[layer]
        if layer in self._why_not:
            raise UsageError(f"layer {layer} was not recorded; it is {self._why_not[layer]}")
        known = f"recorded are {self.layers}" if len(self) else "nothing is: call the model"
        raise UsageError(f"layer {layer} was not recorded; {known}")

    def __iter__(self) -> Iterator[LayerRecord]:
        return (self[layer] for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return f"<Recording of layers {self.layers}>"

    def _add(self, call: MixerCall) -> None:
        attends = call.site.adapter is SOFTMAX
        kept = self.softmax_attention if attends else self._mixers
        kept[call.site.layer] = LayerRecord(
            call.with_gradients() if self._gradients else call.detached()
        )


@contextmanager
def recording(
    model: nn.Module, layers: int | Sequence[int] | None = None, *, gradients: bool = False
) -> Iterator[Recording]:
    """Record what the Mamba layers of `model` compute inside the `with` block.

        with ssmlens.recording(model) as rec:
            model(input_ids)
        rec[31].operands, rec[31].closure_error

    Any mamba_ssm, transformers or ssmlens model, as it is. Its outputs do not change; the hooks are gone afterwards. A
    compiled model runs uncompiled inside the block.
    Of a hybrid's softmax attention the weights are recorded, where the model puts them out
    (`attn_implementation="eager"`): `rec[4].attention_map`, or `rec.softmax_attention[4]` beside a mixer.

    Args:
        model: The model.
        layers: Block indices to record, or one. None: all.
        gradients: Whether operands, and all that is computed of them, can be differentiated, back to the model's
            weights and embeddings: `channel_maps(rec[1].operands, [0]).sum().backward()`. All layers share the graph of
            one forward, which is then kept in memory: sum what is wanted, or pass `retain_graph=True`.

    Raises:
        UnsupportedModelError: No layer of the model can be read.
        UsageError: A layer is out of range, or nothing in it mixes tokens; in the model's call: with `gradients`, the
            model runs under `torch.no_grad()`.
    """
    blocks = find_blocks(model)
    layers = [layers] if isinstance(layers, int) else layers
    reasons = {block.layer: why for block in blocks if (why := why_not(block))}
    rec = Recording(reasons, gradients)
    with hooked(choose_blocks(blocks, layers), rec._add):
        yield rec
