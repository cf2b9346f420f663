"""A block's token mixing as a matrix and an offset: convolution, gate and skip folded into the scan's matrix.

For each channel, with M the scan's matrix, D the skip, and everything that depends on the data frozen at its value for
this input,

    result = diag(r) (M + D) diag(s) (K u + b)  =  matrix · u + offset,
    matrix = diag(r) (M + D) diag(s) K,            offset = diag(r) (M + D) s b,

where u is the channel before its convolution, K the convolution's Toeplitz matrix and b its bias. s = x / (K u + b) is
the factor of the activation (for SiLU the sigmoid), 0 at padding. r = activation(z) · norm weight / rms is the factor
of gate and norm. A bias makes the mixing affine, which gives the offset. Parts that are not folded are left out: K, s
and b (then the input is x), r (then the result is y), or D.
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.scan.causal_conv import causal_conv1d
from ssmlens.scan.operator import Operator
from ssmlens.scan.selective_scan import selective_scan

FOLDS = ("conv", "gate", "skip")


def check_fold(operands: Operator, fold: Collection[str]) -> None:
    """Raise UsageError unless every part in `fold` is known, and these operands have it."""
    if isinstance(fold, str) or not set(fold) <= set(FOLDS):
        raise UsageError(f"fold is a list of any of {', '.join(FOLDS)}, not {fold!r}")
    if operands.x is None or operands.surroundings is None:
        raise UsageError(
            "these operands have no x, convolution, gate or norm (a file does not store them): "
            "take them from ssmlens.recording to fold"
        )
    gate_or_norm = operands.surroundings.norm_weight if operands.gate is None else operands.gate
    available = {"conv": operands.surroundings.u, "gate": gate_or_norm, "skip": operands.D}
    if "conv" in fold and not operands.is_causal:
        raise UsageError(
            "this mixer looks ahead, and its convolution may look ahead too: leave 'conv' out of fold"
        )
    for part in fold:
        if available[part] is None:
            what = {"conv": "convolution", "gate": "gate", "skip": "skip (D)"}[part]
            raise UsageError(f"this mixer has no {what}: leave {part!r} out of fold")


def fold_in(
    maps: Float[Tensor, "batch channel query key"],
    operands: Operator,
    channels: Sequence[int],
    fold: Collection[str],
) -> tuple[Float[Tensor, "batch channel query key"], Float[Tensor, "batch channel query"]]:
    """The matrix and the offset of these channels' token mixing, from the scan's matrices M.

    Args:
        maps: M of each channel's head.
        operands: Operands that `check_fold` has accepted.
        channels: Channels of d_ssm, one for each map.
        fold: Any of `FOLDS`.
    """
    chosen, dtype = list(channels), maps.dtype
    scale = maps.new_ones(maps.shape[:3])
    if "gate" in fold:
        scale = output_scale(operands, dtype)[..., chosen].mT
    matrix = maps * scale.unsqueeze(3)
    if "skip" in fold:
        assert operands.D is not None
        assert operands.x is not None
        D = operands.D.expand(operands.x.shape[2:]).flatten()[chosen].to(dtype)
        matrix.diagonal(dim1=2, dim2=3).add_(scale * D.unsqueeze(1))
    if "conv" in fold:
        return _fold_convolution(matrix, operands, chosen)
    return matrix, torch.zeros_like(scale)


def _fold_convolution(
    matrix: Float[Tensor, "batch channel query key"], operands: Operator, chosen: list[int]
) -> tuple[Float[Tensor, "batch channel query key"], Float[Tensor, "batch channel query"]]:
    """From a matrix that multiplies x, the matrix that multiplies u, and the bias's offset."""
    around, dtype = operands.surroundings, matrix.dtype
    assert around is not None
    assert around.u is not None
    assert around.conv_weight is not None
    taps = around.conv_weight[chosen].to(dtype)
    bias = None if around.conv_bias is None else around.conv_bias[chosen].to(dtype)
    scale = activation_scale(operands, dtype, chosen).mT
    offset = scale.new_zeros(scale.shape)
    if bias is not None:
        offset = (matrix @ (scale * bias.unsqueeze(1)).unsqueeze(3)).squeeze(3)
    *earlier, own = taps.mT.unsqueeze(2)  # each: channel 1
    folded = matrix * (scale * own).unsqueeze(2)
    for lag, tap in enumerate(reversed(earlier), start=1):
        folded[..., :-lag].addcmul_(matrix[..., lag:], (scale * tap)[..., lag:].unsqueeze(2))
    return folded, offset


def activation_scale(
    operands: Operator, dtype: torch.dtype, channels: Sequence[int] | slice = slice(None)
) -> Float[Tensor, "batch token channel"]:
    """s: x over the convolution's output, for each channel (for SiLU the sigmoid); 0 at padding."""
    around = operands.surroundings
    assert around is not None
    assert around.u is not None
    assert around.conv_weight is not None
    assert operands.x is not None
    taps = around.conv_weight[channels].to(dtype)
    bias = None if around.conv_bias is None else around.conv_bias[channels].to(dtype)
    convolved = causal_conv1d(around.u[..., channels].to(dtype), taps, bias)
    x = operands.x.flatten(2)[..., channels].to(dtype)
    # Where the convolution's output is 0, x is 0 too, and any factor is right.
    return x / convolved.masked_fill(convolved == 0, 1)


def output_scale(
    operands: Operator,
    dtype: torch.dtype,
    y: Float[Tensor, "batch token head headdim"] | None = None,
) -> Float[Tensor, "batch token channel"]:
    """r: the factor of gate and norm on each channel's y, with the norm's root mean square of this input.

    Args:
        operands: The operands, with x and surroundings.
        dtype: The dtype to compute in.
        y: The scan's output. None: it is computed.
    """
    around = operands.surroundings
    assert around is not None
    assert operands.x is not None
    d_ssm = operands.heads * operands.x.shape[3]
    gate = torch.ones_like(operands.x.flatten(2), dtype=dtype)
    if operands.gate is not None:
        branch = operands.gate[..., -d_ssm:].to(dtype)  # the channels of a gated MLP come first
        gate = around.gate_activation(branch)
    if around.norm_weight is None:
        return gate
    y = selective_scan(operands) if y is None else y
    y = y.flatten(2).to(dtype)
    normed = y if around.norm_before_gate else y * gate
    part = normed.unflatten(2, (around.norm_groups, -1))
    shrink = torch.rsqrt(part.square().mean(3, keepdim=True) + around.norm_eps)
    shrink = shrink.expand_as(part).flatten(2)
    return gate * shrink * around.norm_weight.to(dtype)
