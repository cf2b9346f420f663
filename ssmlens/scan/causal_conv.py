"""The convolution that x (in Mamba-2 also B and C) passes before the scan."""

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operator import scan_dtype


def causal_conv1d(
    x: Float[Tensor, "batch token channel"],
    weight: Float[Tensor, "channel tap"],
    bias: Float[Tensor, "channel"] | None = None,
) -> Float[Tensor, "batch token channel"]:
    """Depthwise causal convolution y[t] = bias + Σ_k weight[k] x[t + k + 1 - taps], in float32 or wider.

    It is computed as a sum of shifted products. On a CPU, in this layout, that is much faster than `F.conv1d`.
    """
    wide = scan_dtype(x)
    x, taps = x.to(wide), weight.to(wide).t().contiguous()
    last = len(taps) - 1
    y = x * taps[last] if bias is None else torch.addcmul(bias.to(wide), x, taps[last])
    for lag in range(1, min(last, x.shape[1] - 1) + 1):
        y[:, lag:].addcmul_(x[:, :-lag], taps[last - lag])
    return y
