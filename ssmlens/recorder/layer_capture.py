"""One layer of a capture: operands, maps and proofs, as arrays that a store takes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ssmlens import names
from ssmlens.recorder import maps
from ssmlens.recorder.calls import MixerCall
from ssmlens.recorder.closure import closure, real_tokens
from ssmlens.recorder.host import to_numpy
from ssmlens.scan.discretize import discretize_A, discretize_B
from ssmlens.scan.operator import Operator
from ssmlens.scan.selective_scan import selective_scan
from ssmlens.store.schema import BLOCK_TOKENS, tokens_per_block

# How many channels' maps are stored where nobody chose: those that write most.
DEFAULT_CHANNELS = 4


@dataclasses.dataclass(frozen=True)
class LayerCapture:
    """What is stored of one layer for one batch of prompts.

    Attributes:
        arrays: Names of `names.LAYER_ARRAYS` to arrays.
        attributes: `mixer`, `adapter`, `finite`, `reason`, `d_conv`, `headdim`; `block_tokens` of reduced maps.
        worst_closure: The largest closure error over the prompts (NaN where the layer is not finite).
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
        y = selective_scan(operands)
        proof = closure(adapter, mixer, operands, call.output, length, y)
    headdim = 1 if operands.x is None else operands.x.shape[3]
    weights = adapter.weights(mixer).named()
    shared = {name: view for name, view in weights.items() if name not in ("A_log", "D")}
    arrays: dict[str, Tensor] = {
        **{n: _zero_padding(operand, real) for n, operand in _per_token(operands).items()},
        **({} if operands.A is None else {"A": _drop_last_axis_of_one(operands.A)}),
        **{n: _drop_last_axis_of_one(weights[n]) for n in ("A_log", "D") if n in weights},
        **shared,
        "closure_error": proof.error,
        "closure_worst_token": proof.worst_token,
    }
    long = operands.tokens > names.LARGEST_WHOLE_MAP
    if channels is None:
        channels = [] if long else _loudest(operands, y, real)
    # Neither is needed any more; what surrounds the scan holds the projections.
    operands = dataclasses.replace(operands, x=None, gate=None, surroundings=None)
    del y
    # Maps are the operands', whatever precision the model is run in.
    with torch.no_grad(), torch.autocast(operands.delta.device.type, enabled=False):
        if long:
            arrays |= maps.reduced(operands, length, target, tokens_per_block(operands.tokens))
        else:
            arrays |= maps.whole(operands, length, channels)
    if channels:
        arrays["channel"] = torch.tensor(list(channels))
    else:
        arrays.pop("channel_map", None)
    if store_discretized:
        A_bar, write = discretize_A(*operands.decay), operands.writes[0]
        arrays["A_bar"] = _drop_last_axis_of_one(_zero_padding(A_bar, real))
        arrays["B_bar"] = _zero_padding(discretize_B(write, operands.B), real)
    attributes = {
        "mixer": f"{type(mixer).__module__}.{type(mixer).__qualname__}",
        "adapter": adapter.family,
        "finite": finite,
        "reason": reason,
        "headdim": headdim,
        "d_conv": weights["conv"].shape[1] if "conv" in weights else 0,
    }
    if long:
        attributes[BLOCK_TOKENS] = tokens_per_block(operands.tokens)
    stored = {name: to_numpy(array) for name, array in arrays.items()}
    return LayerCapture(stored, attributes, float(proof.error.max()))


def _per_token(operands: Operator) -> dict[str, Tensor]:
    """The operands that are stored with a value a token, those that the layer has."""
    names = ("delta", "B", "C", "log_decay", "write", "write_now")
    given = {name: getattr(operands, name) for name in names}
    return {name: operand for name, operand in given.items() if operand is not None}


def _loudest(operands: Operator, y: Tensor, real: Tensor) -> list[int]:
    """The heads that write most through their maps: largest ‖y − D x‖ over prompts and tokens, in their order."""
    written = y if operands.D is None or operands.x is None else y - operands.D * operands.x
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


def _drop_last_axis_of_one(tensor: Tensor) -> Tensor:
    return tensor.squeeze(-1) if tensor.shape[-1] == 1 else tensor
