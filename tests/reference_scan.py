"""The oracle: the scan and its matrices straight from their definitions, slowly and in float64.

Nothing here shares code with the fast paths; the tests compare those with this.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from ssmlens.scan.operands import DecayOperands


def reference_scan(operands: DecayOperands) -> Float64[Tensor, "batch token head headdim"]:
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
    write, write_now = o.writes
    for t in range(o.tokens):
        B = o.B[:, t].repeat_interleave(heads_per_group, dim=1)[:, :, None, :]
        C = o.C[:, t].repeat_interleave(heads_per_group, dim=1)[:, :, None, :]
        put = B * o.x[:, t, :, :, None]
        state = _decay(o, t)[:, :, None] * state
        y[:, t] = ((state + write_now[:, t, :, None, None] * put) * C).sum(-1)
        state = state + write[:, t, :, None, None] * put
    return y if o.D is None else y + o.D * o.x


def reference_channel_maps(operands: DecayOperands) -> Float64[Tensor, "batch head query key"]:
    """Every head's matrix M, entry by entry (paper eq. 8).

    M[i,j] = Σ_n C[i,n] · (Π_{k=j+1..i} Ā[k,n]) · B̄[j,n] for j ≤ i, else 0. Costs T³: for tests only.
    """
    o = operands.map(lambda t: t.double())
    heads_per_group = o.heads // o.groups
    maps = o.delta.new_zeros(o.batch, o.heads, o.tokens, o.tokens)
    B = o.B.repeat_interleave(heads_per_group, dim=2)
    C = o.C.repeat_interleave(heads_per_group, dim=2)
    write, write_now = o.writes
    decay_of = [_decay(o, t) for t in range(o.tokens)]
    for i in range(o.tokens):
        for j in range(i + 1):
            written = (write_now if j == i else write)[:, j, :, None] * B[:, j]
            for decay in decay_of[j + 1 : i + 1]:
                written = decay * written
            maps[:, :, i, j] = (C[:, i] * written).sum(-1)
    return maps


def reference_attention_mask(operands: DecayOperands) -> Float64[Tensor, "batch query key"]:
    """The average attention mask, entry by entry: mean over heads and states of Π_{k=j+1..i} Ā[k] for j ≤ i."""
    o = operands.map(lambda t: t.double())
    mask = o.delta.new_zeros(o.batch, o.tokens, o.tokens)
    decay_of = [_decay(o, t) for t in range(o.tokens)]
    for i in range(o.tokens):
        for j in range(i + 1):
            passed = torch.ones_like(decay_of[i])
            for decay in decay_of[j + 1 : i + 1]:
                passed = passed * decay
            mask[:, i, j] = passed.mean(dim=(1, 2))
    return mask


def _decay(o: DecayOperands, t: int) -> Float64[Tensor, "batch head A_state"]:
    """What token t leaves of every state: exp(ΔA), or exp(log_decay)."""
    if o.log_decay is not None:
        return torch.exp(o.log_decay[:, t, :, None])
    assert o.A is not None
    return torch.exp(o.delta[:, t, :, None] * o.A)
