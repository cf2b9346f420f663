"""One layer of a capture: operands, maps and their checks, as arrays that a store takes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ssmlens import names
from ssmlens.adapters.find import MixerSite
from ssmlens.recorder import maps
from ssmlens.recorder.calls import MixerCall
from ssmlens.recorder.closure import closure, real_tokens, unseen_heads
from ssmlens.recorder.host import ToHost
from ssmlens.scan.finite import all_finite
from ssmlens.scan.operator import Operator
from ssmlens.scan.selective_scan import selective_scan
from ssmlens.store.schema import (
    BLOCK_TOKENS,
    LOOKS_AHEAD,
    MAY_DROP_THE_LAST_AXIS,
    STORED_LAYER_ARRAYS,
    layer_axes,
    tokens_per_block,
)
from ssmlens.store.verdict import UNSEEN_HEADS

# How many channels' maps are stored where nobody chose: those that write most.
DEFAULT_CHANNELS = 4


@dataclasses.dataclass(frozen=True)
class LayerCapture:
    """What is stored of one layer for one batch of prompts.

    Attributes:
        arrays: Names of `store.schema.LAYER_ARRAYS` to arrays.
        attributes: `kind`, `operator`, `mixer`, `adapter`, `finite`, `reason`, `closure_reason`, `d_conv`, `headdim`;
            `block_tokens` of reduced maps; `looks_ahead` where tokens read later ones too; `unseen_heads`, as
            "2 of 64", where there are such.
        worst_closure: The largest closure error over the prompts; NaN where the layer is not finite, or
            `closure_reason` says why it cannot be known.
        wait: Returns when the arrays have arrived from the GPU: before that nobody may read them. None: they are there.
    """

    arrays: dict[str, np.ndarray]
    attributes: dict[str, str | int]
    worst_closure: float
    wait: Callable[[], None] | None

    @property
    def finite(self) -> bool:
        """Whether weights, input and output were all finite."""
        return self.attributes["finite"] == names.FINITE


def capture_layer(
    call: MixerCall,
    length: Tensor,
    channels: Sequence[int] | None = None,
    store_discretized: bool = False,
    target: Tensor | None = None,
    separator: Tensor | None = None,
) -> LayerCapture:
    """Everything that is stored of one mixer's call.

    Args:
        call: The call, one prompt a row, padded on the right. With more than `names.LARGEST_WHOLE_MAP` tokens, maps
            are reduced to blocks, and no channel's is made.
        length: Real tokens of each prompt.
        channels: Heads whose own maps are stored. None: the `DEFAULT_CHANNELS` that write most.
        store_discretized: Store Ā and B̄ too.
        target: The position that each query must look at, −1 where it has none.
        separator: Which tokens are separators. None: none.
    """
    adapter, mixer = call.site.adapter, call.site.module
    real = real_tokens(length, call.output.shape[1])
    finite, reason = _finite(call, real)
    with torch.no_grad(), call.precision():
        operands = adapter.project(mixer, call.given)
        y = None if operands.x is None else selective_scan(operands)
        closed = closure(adapter, mixer, operands, call.output, length, y)
    weights = adapter.weights(mixer).named()
    attributes: dict[str, str | int] = {
        **_described(call.site, operands, weights),
        **({} if operands.is_causal else {LOOKS_AHEAD: 1}),
        **{"finite": finite, "reason": reason, "closure_reason": closed.reason},
    }
    arrays: dict[str, Tensor] = {
        **weights,
        "closure_error": closed.error,
        "closure_worst_token": closed.worst_token,
    }
    if operands.stored:  # a softmax map is the model's own weights: nothing to check
        arrays |= _padded_with_zeros(operands.arrays(), real)
        arrays |= {"map_closure": closed.map_error, "map_rounding": closed.map_rounding}
        if unseen := unseen_heads(adapter, mixer, operands):
            attributes[UNSEEN_HEADS] = f"{unseen} of {operands.heads}"
    long = operands.tokens > names.LARGEST_WHOLE_MAP
    if channels is None:
        channels = [] if long else _loudest(operands, y, real)
    if not operands.stored:
        channels = []
    # Neither is needed any more, and what surrounds the mixing holds the projections.
    operands = operands.bare()
    del y
    to_host = ToHost(operands.like)
    # Maps are the operands', whatever precision the model is run in.
    with torch.no_grad(), torch.autocast(operands.like.device.type, enabled=False):
        if long:
            attributes[BLOCK_TOKENS] = block = tokens_per_block(operands.tokens)
            found = maps.reduced(operands, length, target, block, separator)
        else:
            found = maps.whole(operands, length, channels, to_host)
            if not operands.stored:
                arrays |= maps.of_heads(operands, length, target, separator)
        arrays |= found.arrays
        closes = bool(closed.reason) or all_finite(closed.error)
        if finite == names.FINITE and closes and not found.finite:
            attributes["finite"] = names.NONFINITE_OUTPUT
            attributes["reason"] = "its map overflows, though its output is finite"
        if store_discretized:
            arrays |= _padded_with_zeros(operands.discretized(), real)
    if channels:
        arrays["channel"] = torch.tensor(list(channels))
    stored = {n: to_host.array(_without_axis_of_one(n, array)) for n, array in arrays.items()}
    wait = to_host.wait if operands.like.is_cuda else None
    return LayerCapture(stored, attributes, float(closed.error.max()), wait)


def _described(
    site: MixerSite, operands: Operator, weights: Mapping[str, Tensor]
) -> dict[str, str | int]:
    """What a layer is, whatever it computed."""
    mixer = site.module
    return {
        "kind": site.adapter.block_kind,
        "operator": operands.kind,
        "mixer": f"{type(mixer).__module__}.{type(mixer).__qualname__}",
        "adapter": site.adapter.family,
        "headdim": 1 if operands.x is None else operands.x.shape[3],
        "d_conv": weights["conv"].shape[1] if "conv" in weights else getattr(mixer, "d_conv", 0),
    }


def capture_attention(
    call: MixerCall,
    length: Tensor,
    target: Tensor | None = None,
    separator: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """What is stored of softmax attention that shares its block with another mixer: its mean map, and its heads' looks.

    Args:
        call: Its call.
        length: As in `capture_layer`.
        target: As in `capture_layer`.
        separator: As in `capture_layer`.
    """
    operands = call.operands().bare()
    to_host = ToHost(operands.like)
    with torch.no_grad(), torch.autocast(operands.like.device.type, enabled=False):
        arrays = maps.of_heads(operands, length, target, separator)
        arrays["softmax_attention_map"] = maps.attention_map(operands, length, to_host)
        found = {name: to_host.array(array) for name, array in arrays.items()}
    to_host.wait()
    return found


def _loudest(operands: Operator, y: Tensor | None, real: Tensor) -> list[int]:
    """The heads that write most through their maps: largest ‖y − D x‖ over prompts and tokens, in their order."""
    if y is None or operands.x is None:
        return []
    written = y if operands.D is None else y - operands.D * operands.x
    loudness = _zero_padding(written, real).square().nan_to_num(nan=0).sum((0, 1, 3))
    count = min(DEFAULT_CHANNELS, operands.heads)
    return sorted(torch.topk(loudness, count).indices.tolist())


def _finite(call: MixerCall, real: Tensor) -> tuple[str, str]:
    """What of the layer is not finite, the cause before its consequences; and that in words."""
    given, put_out = (_zero_padding(tensor, real) for tensor in (call.given.hidden, call.output))
    if all_finite(*call.site.module.parameters(), given, put_out):
        return names.FINITE, ""
    for name, parameter in call.site.module.named_parameters():
        if not all_finite(parameter):
            return names.NONFINITE_WEIGHTS, f"{name} is not finite"
    if not all_finite(given):
        return names.NONFINITE_INPUT, "its input is not finite: something before it made it so"
    return names.NONFINITE_OUTPUT, "its output is not finite, though weights and input are"


def _zero_padding(tensor: Tensor, real: Tensor) -> Tensor:
    if bool(real.all()):  # asked on the host: nobody waits for a GPU
        return tensor
    mask = real.to(tensor.device)
    return tensor.masked_fill(~mask.reshape(*mask.shape, *[1] * (tensor.ndim - 2)), 0)


def _padded_with_zeros(arrays: Mapping[str, Tensor], real: Tensor) -> dict[str, Tensor]:
    """Arrays that are zero at padding, those that have tokens."""
    return {
        name: _zero_padding(array, real) if names.TOKEN in layer_axes(name, array.ndim) else array
        for name, array in arrays.items()
    }


def _without_axis_of_one(name: str, array: Tensor) -> Tensor:
    """An array as it is stored: some have no last axis where that has one entry."""
    whole = array.ndim == len(STORED_LAYER_ARRAYS[name]) and name in MAY_DROP_THE_LAST_AXIS
    return array.squeeze(-1) if whole and array.shape[-1] == 1 else array
