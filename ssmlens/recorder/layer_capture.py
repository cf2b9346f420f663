"""One layer of a capture: operands, maps and their checks, as arrays for the store."""

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
from ssmlens.recorder.host import ToHost
from ssmlens.recorder.replay import Replays
from ssmlens.scan.finite import all_finite, finite_flag
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

# Number of channels whose maps are stored by default: those that write most.
DEFAULT_CHANNELS = 4


@dataclasses.dataclass(frozen=True)
class LayerCapture:
    """The stored arrays and attributes of one layer for one batch of prompts.

    Attributes:
        arrays: Arrays by their names in `store.schema.LAYER_ARRAYS`.
        attributes: `kind`, `operator`, `mixer`, `adapter`, `finite`, `reason`, `closure_reason`, `d_conv`, `headdim`;
            `block_tokens` of reduced maps; `looks_ahead` if tokens read later ones; `unseen_heads`, as
            "2 of 64", if there are any.
        worst_closure: The largest closure error over the prompts; NaN if the layer is not finite, or closure is
            unknown (`closure_reason`).
    """

    arrays: dict[str, np.ndarray]
    attributes: dict[str, str | int]
    worst_closure: float

    @property
    def finite(self) -> bool:
        """Whether weights, input and output were all finite."""
        return self.attributes["finite"] == names.FINITE


@dataclasses.dataclass(frozen=True)
class LaunchedLayer:
    """A layer of a capture whose values a GPU may still compute.

    Attributes:
        arrays: As in `LayerCapture`, once `to_host` has them.
        attributes: As in `LayerCapture`, without those that depend on values.
        found: What decides about those: whether `weights`, `hidden` (the input), `output` and `maps` are finite, the
            number of `unseen_heads`, and which prompts are `unknown` (see `maps.Maps`).
        map_names: Which of the arrays are maps and their checks.
        length: Real tokens of each prompt.
        heads: Number of heads.
        module: The mixer.
        to_host: The copies to the host.
    """

    arrays: dict[str, np.ndarray]
    attributes: dict[str, str | int]
    found: dict[str, np.ndarray]
    map_names: tuple[str, ...]
    length: Tensor
    heads: int
    module: nn.Module
    to_host: ToHost

    def finish(self) -> LayerCapture:
        """Wait for the values, and judge them."""
        self.to_host.wait()
        finite, reason = self._finite()
        attributes = {**self.attributes, "finite": finite, "reason": reason}
        if unseen := int(self.found["unseen_heads"]):
            attributes[UNSEEN_HEADS] = f"{unseen} of {self.heads}"
        of_maps = {name: self.arrays[name] for name in self.map_names}
        for prompt in np.flatnonzero(self.found["unknown"]).tolist():
            maps.set_unknown(of_maps, prompt, int(self.length[prompt]))
        return LayerCapture(self.arrays, attributes, float(self.arrays["closure_error"].max()))

    def _finite(self) -> tuple[str, str]:
        """Return what is not finite in the layer, causes before consequences, and a sentence about it."""
        found = self.found
        if not found["weights"]:
            parameters = self.module.named_parameters()
            name = next(name for name, parameter in parameters if not all_finite(parameter))
            return names.NONFINITE_WEIGHTS, f"{name} is not finite"
        if not found["hidden"]:
            return (
                names.NONFINITE_INPUT,
                "its input is not finite: the cause is before this layer",
            )
        if not found["output"]:
            return names.NONFINITE_OUTPUT, "its output is not finite, though weights and input are"
        closes = (
            self.attributes["closure_reason"] or np.isfinite(self.arrays["closure_error"]).all()
        )
        if closes and not found["maps"]:
            return names.NONFINITE_OUTPUT, "its map overflows, though its output is finite"
        return names.FINITE, ""


def launch_layer(
    call: MixerCall,
    length: Tensor,
    channels: Sequence[int] | None = None,
    store_discretized: bool = False,
    target: Tensor | None = None,
    separator: Tensor | None = None,
    replays: Replays | None = None,
) -> LaunchedLayer:
    """Compute all that is stored of one mixer's call. Does not wait for a GPU unless it must choose `channels`.

    Args:
        call: The call, one prompt per row, padded on the right. With more than `names.LARGEST_WHOLE_MAP` tokens, maps
            are reduced to blocks, and no map of a channel is computed.
        length: Real tokens of each prompt.
        channels: Heads whose own maps are stored. None: the `DEFAULT_CHANNELS` that write most.
        store_discretized: Store Ā and B̄ too.
        target: The position that each query must look at, −1 for none.
        separator: Which tokens are separators. None: none.
        replays: The graphs of the layers before this one. None: there are none.
    """
    replays = Replays() if replays is None else replays
    adapter, mixer = call.site.adapter, call.site.module
    real = real_tokens(length, call.output.shape[1])
    found = {**_finite_flags(call, real), "unseen_heads": torch.tensor(0)}
    with torch.no_grad(), call.precision():
        operands = adapter.project(mixer, call.given)
        y = None
        if operands.x is not None:
            alone = dataclasses.replace(operands, gate=None, surroundings=None)
            y = replays.run(_scan, alone)["y"]
        closed = closure(adapter, mixer, operands, call.output, length, y)
    weights = adapter.weights(mixer).named()
    attributes: dict[str, str | int] = {
        **_description(call.site, operands, weights),
        **({} if operands.is_causal else {LOOKS_AHEAD: 1}),
        "closure_reason": closed.reason,
    }
    arrays: dict[str, Tensor] = {
        **weights,
        "closure_error": closed.error,
        "closure_worst_token": closed.worst_token,
    }
    if operands.stored:  # a softmax map is the model's own weights: nothing to check
        arrays |= _zero_arrays_at_padding(operands.arrays(), real)
        arrays |= {"map_closure": closed.map_error, "map_rounding": closed.map_rounding}
        found["unseen_heads"] = unseen_heads(adapter, mixer, operands)
    long = operands.tokens > names.LARGEST_WHOLE_MAP
    if channels is None:
        channels = [] if long else _loudest(operands, y, real)
    if not operands.stored:
        channels = []
    # Free y and the surroundings, which refer to the projections.
    operands = operands.bare()
    del y
    to_host = ToHost(operands.like)
    # Maps have the precision of the operands, not of the model's autocast.
    with torch.no_grad(), torch.autocast(operands.like.device.type, enabled=False):
        if long:
            attributes[BLOCK_TOKENS] = block = tokens_per_block(operands.tokens)
            computed = maps.reduced(operands, length, target, block, separator)
        else:
            computed = maps.whole(operands, length, channels, to_host, replays)
            if not operands.stored:
                arrays |= maps.head_statistics(operands, length, target, separator)
        arrays |= computed.arrays
        found |= {"maps": computed.finite, "unknown": computed.unknown}
        if store_discretized:
            arrays |= _zero_arrays_at_padding(operands.discretized(), real)
    if channels:
        arrays["channel"] = torch.tensor(list(channels))
    return LaunchedLayer(
        arrays={n: to_host.array(_drop_last_axis_of_one(n, array)) for n, array in arrays.items()},
        attributes=attributes,
        found={name: to_host.array(value) for name, value in found.items()},
        map_names=tuple(computed.arrays),
        length=length,
        heads=operands.heads,
        module=mixer,
        to_host=to_host,
    )


def _scan(operands: Operator) -> dict[str, Tensor]:
    return {"y": selective_scan(operands)}


def _description(
    site: MixerSite, operands: Operator, weights: Mapping[str, Tensor]
) -> dict[str, str | int]:
    """The attributes of a layer that do not depend on the prompts."""
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
    """Compute what is stored of softmax attention beside another mixer: its mean map, and where its heads look.

    Args:
        call: The call of the attention module.
        length: As in `launch_layer`.
        target: As in `launch_layer`.
        separator: As in `launch_layer`.
    """
    operands = call.operands().bare()
    to_host = ToHost(operands.like)
    with torch.no_grad(), torch.autocast(operands.like.device.type, enabled=False):
        arrays = maps.head_statistics(operands, length, target, separator)
        arrays["softmax_attention_map"] = maps.attention_map(operands, length, to_host)
        stored = {name: to_host.array(array) for name, array in arrays.items()}
    to_host.wait()
    return stored


def _loudest(operands: Operator, y: Tensor | None, real: Tensor) -> list[int]:
    """The heads that write most through their maps (largest ‖y − D x‖ over prompts and tokens), in ascending order."""
    if y is None or operands.x is None:
        return []
    written = y if operands.D is None else y - operands.D * operands.x
    loudness = _zero_padding(written, real).square().nan_to_num(nan=0).sum((0, 1, 3))
    count = min(DEFAULT_CHANNELS, operands.heads)
    return sorted(torch.topk(loudness, count).indices.tolist())


def _finite_flags(call: MixerCall, real: Tensor) -> dict[str, Tensor]:
    """Whether the mixer's weights, its input and its output are finite. The model may change the last two later."""
    return {
        "weights": finite_flag(*call.site.module.parameters()),
        "hidden": finite_flag(_zero_padding(call.given.hidden, real)),
        "output": finite_flag(_zero_padding(call.output, real)),
    }


def _zero_padding(tensor: Tensor, real: Tensor) -> Tensor:
    if bool(real.all()):  # `real` is on the host, so this does not wait for a GPU
        return tensor
    mask = real.to(tensor.device)
    return tensor.masked_fill(~mask.reshape(*mask.shape, *[1] * (tensor.ndim - 2)), 0)


def _zero_arrays_at_padding(arrays: Mapping[str, Tensor], real: Tensor) -> dict[str, Tensor]:
    """Set arrays with a token axis to 0 at padding."""
    return {
        name: _zero_padding(array, real) if names.TOKEN in layer_axes(name, array.ndim) else array
        for name, array in arrays.items()
    }


def _drop_last_axis_of_one(name: str, array: Tensor) -> Tensor:
    """Drop an array's last axis if it has one entry and the schema allows it."""
    droppable = array.ndim == len(STORED_LAYER_ARRAYS[name]) and name in MAY_DROP_THE_LAST_AXIS
    return array.squeeze(-1) if droppable and array.shape[-1] == 1 else array
