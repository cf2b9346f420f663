"""One layer of a capture: operands, maps and their checks, as arrays that a store takes."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.find import MixerSite
from ssmlens.recorder import maps
from ssmlens.recorder.calls import MixerCall
from ssmlens.recorder.closure import closure, real_tokens, unseen_heads
from ssmlens.recorder.host import to_numpy
from ssmlens.scan.operator import Operator
from ssmlens.scan.selective_scan import selective_scan
from ssmlens.store.schema import (
    BLOCK_TOKENS,
    MAY_DROP_THE_LAST_AXIS,
    STORED_LAYER_ARRAYS,
    layer_axes,
    role_of,
    tokens_per_block,
)
from ssmlens.store.verdict import UNSEEN_HEADS

# How many channels' maps are stored where nobody chose: those that write most.
DEFAULT_CHANNELS = 4
_MAPS = role_of("attention_map")


@dataclasses.dataclass(frozen=True)
class LayerCapture:
    """What is stored of one layer for one batch of prompts.

    Attributes:
        arrays: Names of `store.schema.LAYER_ARRAYS` to arrays.
        attributes: `kind`, `operator`, `mixer`, `adapter`, `finite`, `reason`, `closure_reason`, `d_conv`, `headdim`;
            `block_tokens` of reduced maps; `unseen_heads`, as "2 of 64", where there are such.
        worst_closure: The largest closure error over the prompts; NaN where the layer is not finite, or
            `closure_reason` says why it cannot be known.
    """

    arrays: dict[str, np.ndarray]
    attributes: dict[str, str | int]
    worst_closure: float

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
) -> LayerCapture:
    """Everything that is stored of one mixer's call.

    Args:
        call: The call, one prompt a row, padded on the right. With more than `names.LARGEST_WHOLE_MAP` tokens, maps
            are reduced to blocks, and no channel's is made.
        length: Real tokens of each prompt.
        channels: Heads whose own maps are stored. None: the `DEFAULT_CHANNELS` that write most.
        store_discretized: Store Ā and B̄ too.
        target: The position that each query must look at, −1 where it has none.
    """
    adapter, mixer = call.site.adapter, call.site.module
    real = real_tokens(length, call.output.shape[1])
    finite, reason = _finite(call, real)
    with torch.no_grad(), call.precision():
        operands = adapter.project(mixer, call.given)
        y = None if operands.x is None else selective_scan(operands)
        closed = closure(adapter, mixer, operands, call.output, length, y)
    weights = adapter.weights(mixer).named()
    stored, unseen = operands.arrays() if operands.stored else {}, 0
    arrays: dict[str, Tensor] = {
        **weights,
        **{name: _padded_with_zeros(name, array, real) for name, array in stored.items()},
        "closure_error": closed.error,
        "closure_worst_token": closed.worst_token,
    }
    if operands.stored:  # a softmax map is the model's own weights: nothing to prove
        arrays |= {"map_closure": closed.map_error, "map_rounding": closed.map_rounding}
        unseen = unseen_heads(adapter.out_weight(mixer), operands)
    long = operands.tokens > names.LARGEST_WHOLE_MAP
    if channels is None:
        channels = [] if long else _loudest(operands, y, real)
    if not operands.stored:
        channels = []
    attributes: dict[str, str | int] = {
        **_described(call.site, operands, weights),
        **{"finite": finite, "reason": reason, "closure_reason": closed.reason},
        **({UNSEEN_HEADS: f"{unseen} of {operands.heads}"} if unseen else {}),
    }
    # None of these is needed any more; what surrounds the mixing holds the projections.
    operands = operands.bare()
    del y, stored
    # Maps are the operands', whatever precision the model is run in.
    with torch.no_grad(), torch.autocast(operands.like.device.type, enabled=False):
        if long:
            attributes[BLOCK_TOKENS] = block = tokens_per_block(operands.tokens)
            arrays |= maps.reduced(operands, length, target, block)
        else:
            arrays |= maps.whole(operands, length, channels)
        closes = bool(closed.reason) or _is_finite(closed.error)
        of_maps = (array for name, array in arrays.items() if role_of(name) == _MAPS)
        if finite == names.FINITE and closes and not all(map(_is_finite, of_maps)):
            attributes["finite"] = names.NONFINITE_OUTPUT
            attributes["reason"] = "its map overflows, though its output is finite"
        if store_discretized:
            derived = operands.discretized()
            arrays |= {n: _padded_with_zeros(n, array, real) for n, array in derived.items()}
    if channels:
        arrays["channel"] = torch.tensor(list(channels))
    on_host = {name: to_numpy(_without_axis_of_one(name, array)) for name, array in arrays.items()}
    return LayerCapture(on_host, attributes, float(closed.error.max()))


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


def capture_map(call: MixerCall, length: Tensor) -> np.ndarray:
    """The attention map alone, of softmax attention that shares its block with another mixer."""
    operands = call.operands().bare()
    with torch.no_grad(), torch.autocast(operands.like.device.type, enabled=False):
        return to_numpy(maps.attention_map(operands, length))


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
    for name, parameter in call.site.module.named_parameters():
        if not _is_finite(parameter):
            return names.NONFINITE_WEIGHTS, f"{name} is not finite"
    if not _is_finite(_zero_padding(call.given.hidden, real)):
        return names.NONFINITE_INPUT, "its input is not finite: something before it made it so"
    if not _is_finite(_zero_padding(call.output, real)):
        return names.NONFINITE_OUTPUT, "its output is not finite, though weights and input are"
    return names.FINITE, ""


def _is_finite(tensor: Tensor | nn.Parameter) -> bool:
    return bool(tensor.detach().isfinite().all())


def _zero_padding(tensor: Tensor, real: Tensor) -> Tensor:
    mask = real.to(tensor.device)
    if bool(mask.all()):
        return tensor
    return tensor.masked_fill(~mask.reshape(*mask.shape, *[1] * (tensor.ndim - 2)), 0)


def _padded_with_zeros(name: str, array: Tensor, real: Tensor) -> Tensor:
    """An array that is zero at padding, if it has tokens."""
    return _zero_padding(array, real) if names.TOKEN in layer_axes(name, array.ndim) else array


def _without_axis_of_one(name: str, array: Tensor) -> Tensor:
    """An array as it is stored: some have no last axis where that has one entry."""
    whole = array.ndim == len(STORED_LAYER_ARRAYS[name]) and name in MAY_DROP_THE_LAST_AXIS
    return array.squeeze(-1) if whole and array.shape[-1] == 1 else array
