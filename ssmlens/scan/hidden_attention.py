"""The hidden attention of a layer: the matrix of its token mixing for each channel, and means over heads.

Each function works for every family. It calls the operator (`ssmlens.scan.operator`), whose file has the mathematics.
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
    """Compute M of some heads, or with `fold` the matrix and offset of the token mixing of some channels.

        M = ssmlens.channel_maps(rec[3].operands, channels=[0])
        matrix, offset = ssmlens.channel_maps(rec[3].operands, channels=[0], fold=("conv", "gate", "skip"))

    Row i of M contains the weight of each earlier token's x in y at token i: y[:, i, h] = Σ_j M[h,i,j] x[:, j, h]
    (+ D x), exactly what the scan computes (paper eq. 8). The diagonal does not include D. One M takes T²·N operations.

    `fold` extends the matrix by parts of the mixer, in any order. "conv": its input is u, the channel before
    convolution and activation, instead of x. "skip": D is added to the diagonal. "gate": its output is the input of
    out_proj instead of y, so it includes the gate and the norm with its weight, if the mixer has them. With all three,
    for each channel,

        matrix @ u + offset    is the input of the mixer's out_proj.

    The offset comes from the convolution's bias: the mixing is affine, not linear. Factors that depend on the data
    (activation, SiLU(z), the norm's root mean square) are frozen at their values for this input (see `scan.fold`). The
    gated MLP beside the scan, where d_ssm < d_inner, mixes no tokens and is left out.

    Args:
        operands: Operands of one layer. Without `fold`, `x` is not needed. With it, take them from a recording.
        channels: Without `fold`, heads (a Mamba-1 channel is a head; the channels of a Mamba-2 head share its matrix).
            With `fold`, channels of d_ssm, since convolution and gate differ within a head: channel c belongs to head
            c // headdim. None: all, which is too much for memory in a full-size layer.
        fold: Any of "conv", "gate" and "skip".

    Returns:
        M; with `fold`, the pair (matrix, offset).

    Raises:
        UsageError: A channel is out of range, or a part in `fold` is unknown or missing in these operands.
    """
    if fold:
        return _folded(operands, channels, fold)
    return _full_matrix(operands, _in_range(channels, operands.heads))


def _full_matrix(operands: Operator, heads: list[int]) -> Float[Tensor, "batch channel query key"]:
    all_tokens = (0, operands.tokens)
    return operands.matrix(heads, all_tokens, all_tokens)


def _in_range(channels: Sequence[int] | None, count: int) -> list[int]:
    """The channels as a list; all for None. Raises UsageError for one that is out of range."""
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
    maps = _full_matrix(operands, heads)[:, [heads.index(head) for head in head_of]]
    # Track gradients only if M has them: operands of a recording have none, but the mixer's weights may.
    with torch.set_grad_enabled(torch.is_grad_enabled() and maps.requires_grad):
        return fold_in(maps, operands, chosen, fold)


def attention_map_and_mask(
    operands: Operator,
) -> tuple[Float[Tensor, "batch query key"], Float[Tensor, "batch query key"]]:
    """The layer's attention map and average attention mask, which share their exponentials.

    The map is the mean of M over channels. The mask is the mean over channels and states of exp(A (S_i − S_j)), j ≤ i:
    how far the layer can look back (paper, section 2, "Mamba attention maps"). Both are signed means, so channels that
    disagree cancel.

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
    """The erase map of a delta rule: the mean over heads of (I + diag β strictly_lower(K Kᵀ ∘ L))⁻¹ − I.

    Entry (i, j) is the signed factor with which the write at token i takes back what token j wrote (its β v).

    Args:
        operands: Operands of one layer; `x` is not needed.

    Raises:
        UsageError: The operator is not a delta rule, so it erases nothing.
    """
    return _means(operands, (ERASE,))[:, 0]


def channel_agreement(operands: Operator, sample: int = 64) -> Float[Tensor, " batch"]:
    """The share of the channels' energy that the attention map keeps: ‖mean M‖² / mean ‖M_h‖², in [0, 1].

    The mean is signed, so channels that disagree cancel. At 1 all channels have the same map. Near 0 the map does not
    show what the channels do.

    Args:
        operands: Operands of one layer; `x` is not needed.
        sample: Heads to sample, evenly spaced in each group; all if there are fewer.
    """
    return operands.agreement(MAP, sample)


def _means(operands: Operator, kinds: Sequence[str]) -> Float[Tensor, "batch kind query key"]:
    all_tokens = (0, operands.tokens)
    return map_tile(operands, kinds, all_tokens, all_tokens)
