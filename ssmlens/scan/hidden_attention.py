"""The matrix hidden in a selective scan: per-channel maps, their average, and the average attention mask.

Per head h, with S the cumulative sum of Δ over tokens (paper eq. 8; Ali et al. 2024, arXiv 2403.01590):

    M[h,i,j] = Σ_n C[i,n] · exp(A[h,n] (S[h,i] − S[h,j])) · B[j,n] · Δ[h,j]    for j ≤ i, else 0

The tensor [head, state, query, key] inside that sum is never made. For any boundary r between j and i

    exp(A (S_i − S_j)) = exp(A (S_i − S_r)) · exp(A (S_r − S_j)),    both factors ≤ 1,

so the block of queries right of r and keys left of r is ONE matrix product P·Qᵀ with inner dimension head·state,
P = C ⊙ exp(A (S_i − S_r)) and Q = BΔ ⊙ exp(A (S_r − S_j)). `_add_products` starts with single tokens and doubles:
two neighbouring blocks give one product, then the decay across the right block is folded into the left block's Q and
the decay across the left block into the right block's P. Each entry meets log2(T) factors, each an exponential
of a difference of float64 sums; nothing overflows, nothing is divided, and the work is that of half a matrix product.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.scan.operands import ScanOperands

# Inner dimension of one product. On a CPU, P and Q of 1024 tokens then stay in the cores' caches; a GPU wants work.
_INNER = {"cpu": 512, "cuda": 4096}
# Blocks up to this size get their decay as a product of exponentials already taken; longer ones from Δ's sums anew,
# so that rounding does not pile up over a long sequence.
_PRODUCT_TOKENS = 8


def channel_maps(
    operands: ScanOperands, channels: Sequence[int] | None = None
) -> Float[Tensor, "batch channel query key"]:
    """Materialise M for some heads: row i says how much each earlier token's x enters y at token i.

    y[:, i, h] = Σ_j M[h,i,j] x[:, j, h] (+ D x), exactly what the scan computes (paper eq. 8). A map takes T²·N
    operations. D is not on the diagonal.

    Args:
        operands: Operands of one layer; `x` is not needed.
        channels: Which heads (a Mamba-1 channel is a head; the channels of a Mamba-2 head share its matrix).
            None: all of them, which for a full-size layer is more than fits in memory.

    Raises:
        UsageError: A channel is out of range.
    """
    chosen = range(operands.heads) if channels is None else [int(c) for c in channels]
    for channel in chosen:
        if not 0 <= channel < operands.heads:
            raise UsageError(f"channel {channel} is out of range: 0..{operands.heads - 1}")
    o = _in_working_precision(operands.select_heads(list(chosen)))
    A = o.A.unsqueeze(1)  # channel 1 A_state
    scalar = o.A.shape[1] == 1
    maps = []
    for sequence in range(o.batch):
        delta = o.delta[sequence].T.unsqueeze(-1)  # channel token 1
        B, C = o.B[sequence].transpose(0, 1), o.C[sequence].transpose(0, 1)  # channel token state
        total = o.delta.new_zeros(len(chosen), o.tokens, o.tokens)
        step = torch.exp(delta * A)
        if scalar:
            _add_products([total], [(step.clone(), delta.clone())], step, delta, A)
            maps.append((total + torch.diag_embed(delta.squeeze(-1))) * (C @ B.mT))
        else:
            _add_products([total], [(C * step, B * delta)], step, delta, A)
            maps.append(total + torch.diag_embed((C * B * delta).sum(-1)))
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


def _means(operands: ScanOperands, kinds: tuple[str, ...]) -> Float[Tensor, "batch kind query key"]:
    o = _in_working_precision(operands)
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
    them. Where a head has one decay (Mamba-2), heads alone are, and C Bᵀ is multiplied in afterwards.
    """
    B, C = o.B[0, :, group], o.C[0, :, group]
    scalar = o.A.shape[1] == 1
    heads = o.heads // o.groups
    chunk = max(1, _INNER.get(o.delta.device.type, _INNER["cpu"]) // o.A.shape[1])
    total = o.delta.new_zeros(len(kinds), o.tokens, o.tokens)
    for first in range(group * heads, (group + 1) * heads, chunk):
        some = slice(first, min(first + chunk, (group + 1) * heads))
        delta, A = o.delta[0, :, some], o.A[some]
        step = torch.exp(delta.unsqueeze(-1) * A)  # token head A_state
        factors = []
        for kind in kinds:
            if kind == "mask":
                P, Q = step.clone(), torch.ones_like(step)
            elif scalar:
                P, Q = step.clone(), delta.unsqueeze(-1).clone()
            else:
                P, Q = C.unsqueeze(1) * step, B.unsqueeze(1) * delta.unsqueeze(-1)
            factors.append((P.flatten(1).unsqueeze(0), Q.flatten(1).unsqueeze(0)))
        _add_products(
            [total[n : n + 1] for n in range(len(kinds))],
            factors,
            step.flatten(1).unsqueeze(0),
            delta.unsqueeze(0),
            A.unsqueeze(0),
        )
    own = o.delta[0, :, group * heads : (group + 1) * heads]
    here = {
        "map": own.sum(-1) * (1 if scalar else (B * C).sum(-1)),
        "mask": torch.full_like(own[:, 0], heads * o.A.shape[1]),
    }
    total = total + torch.diag_embed(torch.stack([here[kind] for kind in kinds]))
    share = {"map": (C @ B.T if scalar else 1) / o.heads, "mask": 1 / (o.heads * o.A.shape[1])}
    return torch.stack([total[n] * share[kind] for n, kind in enumerate(kinds)])


def _add_products(
    outs: Sequence[Float[Tensor, "map token token"]],
    factors: Sequence[tuple[Float[Tensor, "map token inner"], Float[Tensor, "map token inner"]]],
    step: Float[Tensor, "map token inner"],
    delta: Float[Tensor, "map token head"],
    A: Float[Tensor, "map head A_state"],
) -> None:
    """Add Σ_inner P[i] Q[j] · (decay after j and before i) below the diagonal of each `out`; inner is head·A_state.

    Args:
        outs: What is added to, one for each pair of factors.
        factors: (P, Q): at token i what is read there times `step`; at token j what is written. Both are overwritten.
        step: Ā = exp(Δ A), the decay of each token.
        delta: Δ.
        A: Continuous-time decay.
    """
    tokens = step.shape[1]
    before = torch.nn.functional.pad(
        delta.double().cumsum(1), (0, 0, 1, 0)
    )  # S before each token, and at the end
    factors = list(factors)
    decay = step  # across each block of `size` tokens
    size = 1
    while True:
        for out, (P, Q) in zip(outs, factors, strict=True):
            _add_neighbours(out, P, Q, size)
        if 2 * size >= tokens:
            return
        factors = [_merge_pairs(P, Q, decay, size) for P, Q in factors]
        size *= 2
        if size <= _PRODUCT_TOKENS:
            last = decay[:, -1:] if decay.shape[1] % 2 else decay[:, :0]
            decay = torch.cat([decay[:, :-1:2] * decay[:, 1::2], last], dim=1)
        else:
            edges = torch.arange(0, tokens + size, size, device=step.device).clamp(max=tokens)
            across = (before[:, edges[1:]] - before[:, edges[:-1]]).to(step.dtype)
            decay = torch.exp(across.unsqueeze(-1) * A.unsqueeze(1)).flatten(2)


def _add_neighbours(
    out: Float[Tensor, "map token token"],
    P: Float[Tensor, "map token inner"],
    Q: Float[Tensor, "map token inner"],
    size: int,
) -> None:
    """Add P Qᵀ for the queries of every second block of `size` tokens and the keys of the block before it."""
    tokens = P.shape[1]
    pairs, rest = divmod(tokens, 2 * size)
    if pairs:
        whole = slice(0, pairs * 2 * size)
        queries, keys = (x[:, whole].unflatten(1, (pairs, 2, size)) for x in (P, Q))
        blocks = (
            out[:, whole, whole].unflatten(1, (pairs, 2 * size)).unflatten(3, (pairs, 2 * size))
        )
        blocks = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1)  # map pair query key
        blocks[:, :, size:, :size] += queries[:, :, 1] @ keys[:, :, 0].mT
    if rest > size:
        middle = tokens - rest + size
        out[:, middle:, tokens - rest : middle] += P[:, middle:] @ Q[:, tokens - rest : middle].mT


def _merge_pairs(
    P: Float[Tensor, "map token inner"],
    Q: Float[Tensor, "map token inner"],
    decay: Float[Tensor, "map block inner"],
    size: int,
) -> tuple[Float[Tensor, "map token inner"], Float[Tensor, "map token inner"]]:
    """Make pairs of blocks of `size` tokens one: P now refers to the pair's start, Q to its end."""
    if P.requires_grad or Q.requires_grad:  # the products have saved both
        P, Q = P.clone(), Q.clone()
    pairs, rest = divmod(P.shape[1], 2 * size)
    if pairs:
        whole, blocks = slice(0, pairs * 2 * size), slice(0, 2 * pairs)
        left, right = decay[:, blocks].unflatten(1, (pairs, 2, 1)).unbind(2)
        P[:, whole].unflatten(1, (pairs, 2, size))[:, :, 1] *= left
        Q[:, whole].unflatten(1, (pairs, 2, size))[:, :, 0] *= right
    if rest > size:
        start = pairs * 2 * size
        P[:, start + size :] *= decay[:, -2:-1]
        Q[:, start : start + size] *= decay[:, -1:]
    return P, Q


def _in_working_precision(operands: ScanOperands) -> ScanOperands:
    """Float64 stays; anything else is float32, as in the reference scans. Only what maps read is kept."""
    dtype = torch.float64 if operands.delta.dtype == torch.float64 else torch.float32
    return ScanOperands(
        delta=operands.delta.to(dtype),
        A=operands.A.to(dtype),
        B=operands.B.to(dtype),
        C=operands.C.to(dtype),
    )
