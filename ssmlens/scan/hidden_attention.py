"""The matrix hidden in a selective scan: per-channel maps, their average, and the average attention mask.

Per head h, with S the cumulative sum of Δ over tokens (paper eq. 8; Ali et al. 2024, arXiv 2403.01590):

    M[h,i,j] = Σ_n C[i,n] · exp(A[h,n] (S[h,i] − S[h,j])) · B[j,n] · Δ[h,j]    for j ≤ i, else 0

How that is computed without ever making [head, state, query, key] is in `block_recursion`.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.scan.block_recursion import DecayedPairs, add_square, energies
from ssmlens.scan.fold import check_fold, fold_in
from ssmlens.scan.operands import ScanOperands
from ssmlens.scan.tiles import KINDS, head_means, tiles

# Entries [head token state] whose energy is computed at once.
_ENTRIES = 2**22


@overload
def channel_maps(
    operands: ScanOperands, channels: Sequence[int] | None = None, fold: tuple[()] = ()
) -> Float[Tensor, "batch channel query key"]: ...


@overload
def channel_maps(
    operands: ScanOperands, channels: Sequence[int] | None = None, *, fold: Collection[str]
) -> tuple[Float[Tensor, "batch channel query key"], Float[Tensor, "batch channel query"]]: ...


def channel_maps(
    operands: ScanOperands, channels: Sequence[int] | None = None, fold: Collection[str] = ()
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
    return _maps_of_heads(operands, _in_range(channels, operands.heads))


def _in_range(channels: Sequence[int] | None, count: int) -> list[int]:
    """The channels asked for, or all of them. Raises UsageError for one that is out of range."""
    chosen = list(range(count)) if channels is None else [int(c) for c in channels]
    for channel in chosen:
        if not 0 <= channel < count:
            raise UsageError(f"channel {channel} is out of range: 0..{count - 1}")
    return chosen


def _folded(
    operands: ScanOperands, channels: Sequence[int] | None, fold: Collection[str]
) -> tuple[Float[Tensor, "batch channel query key"], Float[Tensor, "batch channel query"]]:
    check_fold(operands, fold)
    assert operands.x is not None
    headdim = operands.x.shape[3]
    chosen = _in_range(channels, operands.heads * headdim)
    head_of = [channel // headdim for channel in chosen]
    heads = sorted(set(head_of))
    maps = _maps_of_heads(operands, heads)[:, [heads.index(head) for head in head_of]]
    # As M itself: of operands without gradients (a recording's) nothing is traced back to the mixer's weights.
    with torch.set_grad_enabled(torch.is_grad_enabled() and maps.requires_grad):
        return fold_in(maps, operands, chosen, fold)


def _maps_of_heads(
    operands: ScanOperands, heads: list[int]
) -> Float[Tensor, "batch channel query key"]:
    o = operands.select_heads(heads).only_maps()
    maps = o.delta.new_zeros(o.batch, len(heads), o.tokens, o.tokens)
    for n in range(o.batch):
        pairs, own = _pairs_of_each_head(o.sequence(n))
        add_square(maps[n].unsqueeze(0), pairs)
        maps[n].diagonal(dim1=1, dim2=2).add_(own)
    return maps


def _pairs_of_each_head(o: ScanOperands) -> tuple[DecayedPairs, Float[Tensor, "head token"]]:
    """The pairs of tokens that M sums for every head, and its diagonal; of one sequence, each head being a group."""
    (steps, rate), (write, write_now) = o.decay, o.writes
    B, C = (x[0].transpose(0, 1) for x in (o.B, o.C))  # head token state
    pairs = DecayedPairs(
        steps=steps[0].T.unsqueeze(2),
        rate=rate.expand(-1, o.states).unsqueeze(1),
        read=C.unsqueeze(0),
        write=B.unsqueeze(0),
        weight=write.mT.unsqueeze(3),
    )
    return pairs, (B * C).sum(-1) * write_now[0].T


def attention_map_and_mask(
    operands: ScanOperands,
) -> tuple[Float[Tensor, "batch query key"], Float[Tensor, "batch query key"]]:
    """The layer's attention map and average attention mask, sharing the exponentials.

    The map is the mean of M over channels; the mask is the mean over channels and states of
    exp(A (S_i − S_j)), j ≤ i: how far the layer can look back (paper, section 2, "Mamba attention maps"). The mean
    is signed: channels that disagree cancel.

    Args:
        operands: Operands of one layer; `x` is not needed.
    """
    means = _means(operands, KINDS)
    return means[:, 0], means[:, 1]


def attention_map(operands: ScanOperands) -> Float[Tensor, "batch query key"]:
    """The layer's attention map alone: the mean of M over channels (paper, section 2)."""
    return _means(operands, ("map",))[:, 0]


def attention_mask(operands: ScanOperands) -> Float[Tensor, "batch query key"]:
    """The layer's average attention mask alone: the mean over channels and states of the decay (paper, section 2)."""
    return _means(operands, ("mask",))[:, 0]


def channel_agreement(operands: ScanOperands, sample: int = 64) -> Float[Tensor, " batch"]:
    """How much of its channels' energy the attention map keeps: ‖mean M‖² / mean ‖M_h‖², in [0, 1].

    The mean is signed: channels that disagree cancel. 1: all channels have one map; near 0: the map hides what the
    channels do.

    Args:
        operands: Operands of one layer; `x` is not needed.
        sample: Heads to sample, evenly spaced in each group; all where there are fewer.
    """
    o = _evenly_spaced_heads(operands.only_maps(), sample)
    kept = o.delta.new_zeros(o.batch)
    for queries, keys in tiles(o):
        kept += head_means(o, ("map",), queries, keys).square().sum((1, 2, 3))
    each = torch.zeros_like(kept)
    at_once = max(1, _ENTRIES // (o.tokens * o.states))
    for heads in torch.arange(o.heads).split(at_once):
        some = o.select_heads(heads.tolist())
        for sequence in range(o.batch):
            pairs, own = _pairs_of_each_head(some.sequence(sequence))
            each[sequence] += energies(pairs).sum() + own.square().sum()
    return kept / (each / o.heads)


def _evenly_spaced_heads(o: ScanOperands, sample: int) -> ScanOperands:
    """About `sample` of the heads, as many of every group; B and C stay the groups' own."""
    heads = o.heads // o.groups
    count = min(heads, max(1, sample // o.groups))
    chosen = [g * heads + h * heads // count for g in range(o.groups) for h in range(count)]
    return dataclasses.replace(o.select_heads(chosen), B=o.B, C=o.C)


def _means(operands: ScanOperands, kinds: Sequence[str]) -> Float[Tensor, "batch kind query key"]:
    everything = (0, operands.tokens)
    return head_means(operands, kinds, everything, everything)
