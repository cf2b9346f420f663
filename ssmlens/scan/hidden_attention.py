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
from ssmlens.scan.block_recursion import BlocksBelow, add_products, energies
from ssmlens.scan.fold import check_fold, fold_in
from ssmlens.scan.operands import ScanOperands

# Inner dimension of one product. On a CPU, P and Q of 1024 tokens then stay in the cores' caches; a GPU wants work.
_INNER = {"cpu": 1024, "cuda": 16384}


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
    (without it: to x); "skip" adds D to the diagonal; "gate" takes it on to what enters out_proj, through the gate and,
    where the mixer has one, the norm with its weight (without it: to y). Then, channel by channel,

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
    steps, rate = o.decay
    rate = rate.unsqueeze(1)  # channel 1 A_state
    maps = []
    for sequence in range(o.batch):
        step, write, now = (
            weight[sequence].T.unsqueeze(-1) for weight in (steps, *o.writes)
        )  # channel token 1
        B, C = o.B[sequence].transpose(0, 1), o.C[sequence].transpose(0, 1)  # channel token state
        total = o.delta.new_zeros(len(heads), o.tokens, o.tokens)
        decay = (step * rate).exp_()
        if o.scalar_decay:
            add_products(BlocksBelow(total), decay.clone(), write.clone(), decay, step, rate)
            maps.append((total + torch.diag_embed(now.squeeze(-1))) * (C @ B.mT))
        else:
            add_products(BlocksBelow(total), C * decay, B * write, decay, step, rate)
            maps.append(total + torch.diag_embed((C * B * now).sum(-1)))
    return torch.stack(maps) if maps else o.delta.new_zeros(0, o.heads, o.tokens, o.tokens)


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
    means = _means(operands, ("map", "mask"))
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
    kept = attention_map(o).square().sum((1, 2))
    each = o.select_heads(list(range(o.heads)))
    steps, rate = each.decay
    rate = rate.expand(-1, o.states).unsqueeze(1)
    energy = []
    for sequence in range(o.batch):
        step, write, now = (weight[sequence].T.unsqueeze(-1) for weight in (steps, *each.writes))
        B, C = each.B[sequence].transpose(0, 1), each.C[sequence].transpose(0, 1)
        decay = (step * rate).exp_()
        below = energies(C * decay, B * write, decay, step, rate)
        energy.append((below + (C * B * now).sum(-1).square().sum(-1)).mean())
    return kept / torch.stack(energy)


def _evenly_spaced_heads(o: ScanOperands, sample: int) -> ScanOperands:
    """About `sample` of the heads, as many of every group; B and C stay the groups' own."""
    heads = o.heads // o.groups
    count = min(heads, max(1, sample // o.groups))
    chosen = [g * heads + h * heads // count for g in range(o.groups) for h in range(count)]
    return dataclasses.replace(o.select_heads(chosen), B=o.B, C=o.C)


def _means(operands: ScanOperands, kinds: tuple[str, ...]) -> Float[Tensor, "batch kind query key"]:
    o = operands.only_maps()
    out = o.delta.new_zeros(o.batch, len(kinds), o.tokens, o.tokens)
    for sequence in range(o.batch):
        for group in range(o.groups):
            out[sequence] += _group_mean(o.sequence(sequence), group, kinds)
    return out


def _group_mean(
    o: ScanOperands, group: int, kinds: tuple[str, ...]
) -> Float[Tensor, "kind query key"]:
    """One group's share of the means: its heads' sum over the number of all heads (and states, for the mask).

    Where every state decays by itself (Mamba-1), heads and states are inner dimensions of the products, C and B with
    them. Where a head has one decay (Mamba-2, Mamba-3), heads alone are, and C Bᵀ is multiplied in afterwards.
    """
    B, C = o.B[0, :, group], o.C[0, :, group]
    heads = o.heads // o.groups
    steps, rate = o.decay
    write, write_now = o.writes
    states = rate.shape[1]
    chunk = max(1, _INNER.get(o.delta.device.type, _INNER["cpu"]) // states)
    total = o.delta.new_zeros(len(kinds), o.tokens, o.tokens)
    blocks = BlocksBelow(total)
    for first in range(group * heads, (group + 1) * heads, chunk):
        some = slice(first, min(first + chunk, (group + 1) * heads))
        decay = (steps[0, :, some].unsqueeze(-1) * rate[some]).exp_()  # token head A_state
        P = decay.expand(len(kinds), -1, -1, -1).clone()
        Q = torch.empty_like(P)
        for n, kind in enumerate(kinds):
            if kind == "mask":
                Q[n] = 1
            elif o.scalar_decay:
                Q[n] = write[0, :, some].unsqueeze(-1)
            else:
                P[n] *= C.unsqueeze(1)
                Q[n] = B.unsqueeze(1) * write[0, :, some].unsqueeze(-1)
        P, Q, decay = P.flatten(2), Q.flatten(2), decay.flatten(1)[None]
        add_products(blocks, P, Q, decay, steps[:, :, some], rate[None, some])
    now = write_now[0, :, group * heads : (group + 1) * heads].sum(-1)
    here = {
        "map": now * (1 if o.scalar_decay else (B * C).sum(-1)),
        "mask": torch.full_like(now, heads * states),
    }
    total = total + torch.diag_embed(torch.stack([here[kind] for kind in kinds]))
    share = {"map": (C @ B.T if o.scalar_decay else 1) / o.heads, "mask": 1 / (o.heads * states)}
    return torch.stack([total[n] * share[kind] for n, kind in enumerate(kinds)])
