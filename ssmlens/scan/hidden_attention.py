"""The matrix hidden in a layer's token mixing: per channel, its average, and what else is averaged over heads.

Each function serves every family: it asks the operator (`ssmlens.scan.operator`), whose file has the mathematics.
"""

from collections.abc import Collection, Sequence
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.names import ERASE, MAP, MASK
from ssmlens.scan.fold import check_fold, fold_in
from ssmlens.scan.operator import Operator
from ssmlens.scan.tiles import map_tile


@overload
def channel_maps(
    operands: Operator, channels: Sequence[int] | None = None, fold: tuple[()] = ()
) -> Float[Tensor, "batch channel query key"]: ...


@overload
def channel_maps(
    operands: Operator, channels: Sequence[int] | None = None, *, fold: Collection[str]
) -> tuple[Float[Tensor, "batch channel query key"], Float[Tensor, "batch channel query"]]: ...


def channel_maps(
    operands: Operator, channels: Sequence[int] | None = None, fold: Collection[str] = ()
) -> (
    Float[Tensor, "batch channel query key"]
    | tuple[Float[Tensor, "batch channel query key"], Float[Tensor, "batch channel query"]]
):
    """Materialise M for some heads, or with `fold` the whole token mixing of some channels.

        M = ssmlens.channel_maps(rec[3].operands, channels=[0])
        matrix, offset = ssmlens.channel_maps(rec[3].operands, channels=[0], fold=("conv", "gate", "skip"))

    Row i of M says how much each earlier token's x enters y at token i: y[:, i, h] = Σ_j M[h,i,j] x[:, j, h] (+ D x),
    exactly what the scan computes (paper eq. 8). A map takes T²·N operations. D is not on the diagonal.

    With `fold`, in any order: "conv" takes the map back to u, the channel before its convolution and activation
    (without it: to x); "skip" adds D to the diagonal; "gate" takes it on to what enters out_proj, through the gate and
    the norm with its weight, whichever the mixer has (without it: to y). Then, channel by channel,

        matrix @ u + offset    is what the mixer computes for this input,

    the offset being what the convolution's bias adds: the mixing is affine, not linear. What depends on the data
    (activation, SiLU(z), the norm's root mean square) is frozen at its value for this input (see `scan.fold`). The
    gated MLP beside the scan, where d_ssm < d_inner, mixes no tokens and is not in it.

    Args:
        operands: Operands of one layer. Without `fold`, `x` is not needed; with it, operands from a recording.
        channels: Without `fold`, heads (a Mamba-1 channel is a head; the channels of a Mamba-2 head share its matrix).
            With `fold`, the channels of d_ssm themselves, for convolution and gate differ within a head: channel c
            belongs to head c // headdim. None: all of them, which for a full-size layer is more than fits in memory.
        fold: Any of "conv", "gate" and "skip".

    Returns:
        M; with `fold`, the pair (matrix, offset).

    Raises:
        UsageError: A channel is out of range, or `fold` asks for what is unknown or not in these operands.
    """
    if fold:
        return _folded(operands, channels, fold)
    return _whole(operands, _in_range(channels, operands.heads))


def _whole(operands: Operator, heads: list[int]) -> Float[Tensor, "batch channel query key"]:
    everything = (0, operands.tokens)
    return operands.matrix(heads, everything, everything)


def _in_range(channels: Sequence[int] | None, count: int) -> list[int]:
    """The channels asked for, or all of them. Raises UsageError for one that is out of range."""
    chosen = list(range(count)) if channels is None else [int(c) for c in channels]
    for channel in chosen:
        if not 0 <= channel < count:
            raise UsageError(f"channel {channel} is out of range: 0..{count - 1}")
    return chosen


def _folded(
    operands: Operator, channels: Sequence[int] | None, fold: Collection[str]
) -> tuple[Float[Tensor, "batch channel query key"], Float[Tensor, "batch channel query"]]:
    check_fold(operands, fold)
    assert operands.x is not None
    headdim = operands.x.shape[3]
    chosen = _in_range(channels, operands.heads * headdim)
    head_of = [channel // headdim for channel in chosen]
    heads = sorted(set(head_of))
    maps = _whole(operands, heads)[:, [heads.index(head) for head in head_of]]
    # As M itself: of operands without gradients (a recording's) nothing is traced back to the mixer's weights.
    with torch.set_grad_enabled(torch.is_grad_enabled() and maps.requires_grad):
        return fold_in(maps, operands, chosen, fold)


def attention_map_and_mask(
    operands: Operator,
) -> tuple[Float[Tensor, "batch query key"], Float[Tensor, "batch query key"]]:
    """The layer's attention map and average attention mask, sharing the exponentials.

    The map is the mean of M over channels; the mask is the mean over channels and states of
    exp(A (S_i − S_j)), j ≤ i: how far the layer can look back (paper, section 2, "Mamba attention maps"). The mean
    is signed: channels that disagree cancel.

    Args:
        operands: Operands of one layer; `x` is not needed.

    Raises:
        UsageError: The operator has no mask (softmax attention).
    """
    means = _means(operands, (MAP, MASK))
    return means[:, 0], means[:, 1]


def attention_map(operands: Operator) -> Float[Tensor, "batch query key"]:
    """The layer's attention map alone: the mean of M over channels (paper, section 2)."""
    return _means(operands, (MAP,))[:, 0]


def attention_mask(operands: Operator) -> Float[Tensor, "batch query key"]:
    """The layer's average attention mask alone: the mean over channels and states of the decay (paper, section 2)."""
    return _means(operands, (MASK,))[:, 0]


def erase_map(operands: Operator) -> Float[Tensor, "batch query key"]:
    """What a delta rule takes back: the mean over heads of (I + diag β strictly_lower(K Kᵀ ∘ L))⁻¹ − I.

    Entry (i, j) is how much of what token j wrote (its β v) the write at i takes back; it is signed.

    Args:
        operands: Operands of one layer; `x` is not needed.

    Raises:
        UsageError: The operator erases nothing (it is no delta rule).
    """
    return _means(operands, (ERASE,))[:, 0]


def channel_agreement(operands: Operator, sample: int = 64) -> Float[Tensor, " batch"]:
    """How much of its channels' energy the attention map keeps: ‖mean M‖² / mean ‖M_h‖², in [0, 1].

    The mean is signed: channels that disagree cancel. 1: all channels have one map; near 0: the map hides what the
    channels do.

    Args:
        operands: Operands of one layer; `x` is not needed.
        sample: Heads to sample, evenly spaced in each group; all where there are fewer.
    """
    return operands.agreement(MAP, sample)


def _means(operands: Operator, kinds: Sequence[str]) -> Float[Tensor, "batch kind query key"]:
    everything = (0, operands.tokens)
    return map_tile(operands, kinds, everything, everything)
