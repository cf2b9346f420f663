"""The states of a decay scan: their value after a token, what is left of them later, and what later tokens read.

With S the running sum of the steps, a state decays from token t to token i by exp(rate (S_i − S_t)). The differences
are computed in float64, as in the maps.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.scan.operands import DecayOperands

# Entries [batch token head state] of the decay in memory at once.
_ENTRIES = 2**24


def state_after(
    o: DecayOperands, x: Float[Tensor, "batch token head headdim"], token: int
) -> Float[Tensor, "batch head headdim state"]:
    """h_t = Σ_{j≤t} exp(rate (S_t − S_j)) w_j x_j B_jᵀ, with w the weight of a write for later tokens."""
    write, _ = o.writes
    written = write.unsqueeze(-1) * x
    state = x.new_zeros(o.batch, o.heads, x.shape[3], o.states)
    for tokens in _chunks(o, token + 1):
        left = _decay(o, tokens, token)  # batch token head A_state
        B = _by_head(o, o.B[:, tokens])
        state = state + torch.einsum("bthn,bthp->bhpn", left * B, written[:, tokens])
    return state


def state_left(
    o: DecayOperands, state: Float[Tensor, "batch head headdim state"], since: int, until: int
) -> Float[Tensor, "batch head headdim state"]:
    """What is left, after token `until`, of the state after token `since`."""
    passed = _passed(o, slice(since + 1, until + 1)).exp().to(state.dtype)
    return state * passed.unsqueeze(2)


def read_state(
    o: DecayOperands, state: Float[Tensor, "batch head headdim state"], since: int
) -> Float[Tensor, "batch token head headdim"]:
    """What every token reads of the state after token `since`; 0 for tokens before it. −1 is the initial state."""
    steps, rate = o.decay
    summed = _running(o)
    at = summed[:, since] if since >= 0 else torch.zeros_like(steps[:, 0], dtype=torch.double)
    out = [state.new_zeros(o.batch, max(0, since), o.heads, state.shape[2])]
    for tokens in _chunks(o, o.tokens, max(0, since)):
        decay = torch.exp(_wide(summed[:, tokens] - at.unsqueeze(1), rate)).to(state.dtype)
        C = _by_head(o, o.C[:, tokens])
        out.append(torch.einsum("bthn,bhpn->bthp", decay * C, state))
    return torch.cat(out, dim=1)


def entries(
    o: DecayOperands, queries: Int[Tensor, " pair"], keys: Int[Tensor, " pair"]
) -> Float[Tensor, "batch pair head"]:
    """M[i, j] of every head for some pairs j < i."""
    _, rate = o.decay
    summed, (write, _) = _running(o), o.writes
    out = [write[:, :0]]
    pairs = max(1, _ENTRIES // max(1, o.batch * o.heads * o.states))  # in memory at once
    for i, j in zip(queries.split(pairs), keys.split(pairs), strict=True):
        decay = torch.exp(_wide(summed[:, i] - summed[:, j], rate)).to(write.dtype)
        product = o.C[:, i] * o.B[:, j]
        if decay.shape[3] == 1:
            read = product.sum(-1).repeat_interleave(o.heads // o.groups, dim=2) * decay.squeeze(3)
        else:
            grouped = decay.unflatten(2, (o.groups, -1))
            read = (grouped @ product.unsqueeze(-1)).squeeze(-1).flatten(2)
        out.append(read * write[:, j])
    return torch.cat(out, dim=1)


def _running(o: DecayOperands) -> Float[Tensor, "batch token head"]:
    return o.decay[0].double().cumsum(1)


def _decay(
    o: DecayOperands, tokens: slice, until: int
) -> Float[Tensor, "batch token head A_state"]:
    summed = _running(o)
    apart = summed[:, until].unsqueeze(1) - summed[:, tokens]
    return torch.exp(_wide(apart, o.decay[1])).to(o.delta.dtype)


def _passed(o: DecayOperands, tokens: slice) -> Float[Tensor, "batch head A_state"]:
    steps, rate = o.decay
    return _wide(steps[:, tokens].double().sum(1), rate)


def _wide(
    steps: Float[Tensor, "*axes head"], rate: Float[Tensor, "head A_state"]
) -> Float[Tensor, "*axes head A_state"]:
    """The log of the decay over these steps, for every rate."""
    return steps.unsqueeze(-1) * rate.to(steps.dtype)


def _by_head(
    o: DecayOperands, grouped: Float[Tensor, "batch token group state"]
) -> Float[Tensor, "batch token head state"]:
    return grouped.repeat_interleave(o.heads // o.groups, dim=2)


def _chunks(o: DecayOperands, end: int, first: int = 0) -> Iterator[slice]:
    length = max(1, _ENTRIES // max(1, o.batch * o.heads * o.states))
    for start in range(first, end, length):
        yield slice(start, min(start + length, end))
