"""The oracle: the scan and its matrices straight from their definitions, slowly and in float64.

Nothing here shares code with the fast paths; the tests compare those with this.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from ssmlens.scan.operands import ScanOperands


def reference_scan(operands: ScanOperands) -> Float64[Tensor, "batch token head headdim"]:
    """Run the recurrence h[t] = Ā[t] h[t−1] + B̄[t] x[t], y[t] = C[t] h[t] + D x[t] (paper eqs. 1-2), token by token.

    Raises:
        ValueError: The operands hold no `x`.
    """
    if operands.x is None:
        raise ValueError("a scan needs operands.x")
    o = operands.map(lambda t: t.double())
    assert o.x is not None
    heads_per_group = o.heads // o.groups
    state = o.x.new_zeros(o.batch, o.heads, o.x.shape[3], o.states)
    y = torch.zeros_like(o.x)
    for t in range(o.tokens):
        delta = o.delta[:, t, :, None, None]
        B = o.B[:, t].repeat_interleave(heads_per_group, dim=1)[:, :, None, :]
        C = o.C[:, t].repeat_interleave(heads_per_group, dim=1)[:, :, None, :]
        state = torch.exp(delta * o.A[None, :, None, :]) * state + delta * B * o.x[:, t, :, :, None]
        y[:, t] = (state * C).sum(-1)
    return y if o.D is None else y + o.D * o.x


def reference_channel_maps(operands: ScanOperands) -> Float64[Tensor, "batch head query key"]:
    """Every head's matrix M, entry by entry (paper eq. 8).

    M[i,j] = Σ_n C[i,n] · (Π_{k=j+1..i} Ā[k,n]) · B̄[j,n] for j ≤ i, else 0. Costs T³: for tests only.
    """
    o = operands.map(lambda t: t.double())
    heads_per_group = o.heads // o.groups
    maps = o.delta.new_zeros(o.batch, o.heads, o.tokens, o.tokens)
    B = o.B.repeat_interleave(heads_per_group, dim=2)
    C = o.C.repeat_interleave(heads_per_group, dim=2)
    for i in range(o.tokens):
        for j in range(i + 1):
            decay = torch.exp(o.delta[:, j + 1 : i + 1, :, None] * o.A).prod(dim=1)
            write = o.delta[:, j, :, None] * B[:, j]
            maps[:, :, i, j] = (C[:, i] * decay * write).sum(-1)
    return maps


def reference_attention_mask(operands: ScanOperands) -> Float64[Tensor, "batch query key"]:
    """The average attention mask, entry by entry: mean over heads and states of Π_{k=j+1..i} Ā[k] for j ≤ i."""
    o = operands.map(lambda t: t.double())
    mask = o.delta.new_zeros(o.batch, o.tokens, o.tokens)
    for i in range(o.tokens):
        for j in range(i + 1):
            decay = torch.exp(o.delta[:, j + 1 : i + 1, :, None] * o.A).prod(dim=1)
            mask[:, i, j] = decay.mean(dim=(1, 2))
    return mask
