"""The softmax attention of one block in a capture: its mean map, alone or beside a mixer's arrays."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens import names
from ssmlens.errors import UsageError
from ssmlens.recorder.calls import AttentionCall
from ssmlens.recorder.closure import real_tokens

ADAPTER = "softmax attention"


def padded_map(
    call: AttentionCall, length: Int[Tensor, " prompt"]
) -> Float[np.ndarray, "prompt query key"]:
    """The mean of the softmax weights over the heads, zero in padding.

    Args:
        call: The call, one prompt a row, padded on the right.
        length: Real tokens of each prompt.

    Raises:
        UsageError: A real token sees padding: attention that is not causal needs prompts of one length.
    """
    mean = call.attention_map().detach().float().cpu()
    real = real_tokens(length.cpu(), mean.shape[1])
    queries = mean.masked_fill(~real[:, :, None], 0)
    if queries.nan_to_num(0).masked_fill(real[:, None, :], 0).any():
        raise UsageError(
            f"layer {call.site.layer}: its attention is not causal, so that tokens see the padding of shorter "
            "prompts; capture prompts of one length"
        )
    return queries.masked_fill(~real[:, None, :], 0).numpy()


def attention_layer(
    call: AttentionCall, length: Int[Tensor, " prompt"]
) -> tuple[dict[str, np.ndarray], dict[str, str | int]]:
    """Arrays and attributes of a layer that is softmax attention alone: a map, no operands, no proofs."""
    module = call.site.module
    attention_map = padded_map(call, length)
    finite, reason = names.FINITE, ""
    if bad := [name for name, p in module.named_parameters() if not bool(p.isfinite().all())]:
        finite, reason = names.NONFINITE_WEIGHTS, f"{bad[0]} is not finite"
    elif not np.isfinite(attention_map).all():
        finite, reason = names.NONFINITE_INPUT, "its attention weights are not finite"
    attributes = {
        "kind": names.ATTENTION,
        "mixer": f"{type(module).__module__}.{type(module).__qualname__}",
        "adapter": ADAPTER,
        "finite": finite,
        "reason": reason,
        "d_conv": getattr(module, "d_conv", 0),
    }
    return {"attention_map": attention_map}, attributes
