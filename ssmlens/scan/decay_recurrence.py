"""The recurrence of a decay scan in plain torch: fast on a CPU, differentiable, any length.

If every state has its own decay (Mamba-1), the recurrence runs token by token over [state, head] slabs that stay in
cache. On a GPU one token is too little work, so it runs over chunks of tokens side by side: first from a zero state, to
get the state that each chunk adds, then again from the true initial states. If a head has one decay (Mamba-2), the scan
runs chunk by chunk as matrix products (Dao & Gu 2024, section 6), on a GPU several chunks at a time.
"""

import functools
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from ssmlens.scan.kept import kept
from ssmlens.scan.operands import DecayOperands

# If every state has its own decay: tokens in a chunk (None: all of them).
_RECURRENCE_TOKENS = {"cpu": None, "cuda": 64}
# Tokens whose Ā and states are in memory at once, and the most entries of either.
_SLAB_TOKENS, _SLAB_ENTRIES = 32, 2**24
# If a head has one decay: tokens in a chunk, and chunks side by side.
_CHUNK_TOKENS = 64
_CHUNKS = {"cpu": 1, "cuda": 16}


def run_recurrence(
    operands: DecayOperands, x: Float[Tensor, "batch token head headdim"]
) -> Float[Tensor, "batch token head headdim"]:
    """Run h[t] = Ā[t] h[t−1] + B̄[t] x[t], y[t] = C[t] h[t] (paper eqs. 1-2), in float32 (float64 stays)."""
    o = operands.bare()
    x = x.to(o.delta.dtype)
    if o.tokens == 0:
        return x
    write, write_now = o.writes
    own_weight = write is not write_now
    # Matrix products are slow if a head has one state and one column of x.
    if o.scalar_decay and (own_weight or o.states > 1 or x.shape[3] > 1):
        return _scan_scalar_decay(o, x)
    y = _scan_state_decay(o, x)
    if own_weight:
        own = (o.B * o.C).sum(-1).repeat_interleave(o.heads // o.groups, dim=2)
        y = y + ((write_now - write) * own).unsqueeze(-1) * x
    return y


def _log_decay(o: DecayOperands) -> Float[Tensor, "batch token head"]:
    """The log of each token's decay, if a head has one decay."""
    if o.log_decay is not None:
        return o.log_decay
    assert o.A is not None
    return o.delta * o.A.T


def _scan_state_decay(
    o: DecayOperands, x: Float[Tensor, "batch token head headdim"]
) -> Float[Tensor, "batch token head headdim"]:
    """The scan if every state has its own decay. Chunks of tokens run as separate sequences, [chunk group state …]."""
    heads, headdim = x.shape[2:]
    steps, rate = o.decay
    length = _RECURRENCE_TOKENS["cuda" if x.is_cuda else "cpu"] or o.tokens
    chunks = -(-o.tokens // length)
    written = (o.writes[0].unsqueeze(-1) * x).flatten(2)
    delta, written, B, C = (
        _by_chunk(sequence, chunks, length).transpose(0, 1)
        for sequence in (_wide(steps, headdim), written, o.B, o.C)
    )
    delta, written = (t.unflatten(2, (o.groups, -1)).unsqueeze(3) for t in (delta, written))
    B, C = B.unsqueeze(4), C.unsqueeze(3)
    A = _wide(rate.T, headdim).unflatten(1, (o.groups, -1)).transpose(0, 1).contiguous()
    state = x.new_zeros(o.batch * chunks, *A.shape)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (delta, written, A, B, C))
    if chunks > 1:
        left = state
        for _, states in _states(delta, A, B, written, state, keep=keep):
            left = states[-1]
        left = left.unflatten(0, (o.batch, chunks))
        across = torch.exp(delta.sum(0, dtype=torch.double).to(x.dtype) * A).view_as(left)
        state = _carry(across, left, torch.zeros_like(left[:, 0]))[0].flatten(0, 1)
    slabs = _states(delta, A, B, written, state, keep=keep)
    y = torch.cat([(C[slab] @ states).squeeze(3) for slab, states in slabs])
    y = y.transpose(0, 1).unflatten(0, (o.batch, chunks)).flatten(1, 2)
    return y[:, : o.tokens].flatten(2).unflatten(2, (heads, headdim))


def _states(
    delta: Float[Tensor, "time chunk group 1 channel"],
    A: Float[Tensor, "group state channel"],
    B: Float[Tensor, "time chunk group state 1"],
    written: Float[Tensor, "time chunk group 1 channel"],
    state: Float[Tensor, "chunk group state channel"],
    *,
    keep: bool,
) -> Iterator[tuple[slice, Float[Tensor, "slab chunk group state channel"]]]:
    """The states after every token, given those before the first, as slabs of tokens.

    Without `keep`, each slab overwrites the one before it.
    """
    length = min(_SLAB_TOKENS, len(delta), max(1, _SLAB_ENTRIES // state.numel()))
    # All slabs use the same memory, so that it stays in cache.
    memory = None if keep else state.new_empty(2, length, *state.shape)
    for first in range(0, len(delta), length):
        slab = slice(first, min(first + length, len(delta)))
        out = (None, None) if memory is None else memory[:, : slab.stop - first].unbind()
        decay = torch.mul(delta[slab], A, out=out[0]).exp_()
        write = torch.mul(B[slab], written[slab], out=out[1])
        states = _Recurrence.apply(decay, write, state)
        yield slab, states
        state = states[-1].clone()


def _carry(
    across: Float[Tensor, "batch chunk #*state"],
    left: Float[Tensor, "batch chunk *state"],
    state: Float[Tensor, "batch *state"],
) -> tuple[Float[Tensor, "batch chunk *state"], Float[Tensor, "batch *state"]]:
    """The states before every chunk and after the last. A chunk multiplies the state by `across` and adds `left`."""
    before = []
    for n in range(left.shape[1]):
        before.append(state)
        state = torch.addcmul(left[:, n], across[:, n], state)
    return torch.stack(before, dim=1), state


@functools.lru_cache(maxsize=8)
def _later(length: int, device: torch.device) -> Bool[Tensor, "query key"]:
    """True where a key is later than its query."""
    with torch.inference_mode(False):  # autograd may save it
        return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)


def _by_chunk(
    sequence: Float[Tensor, "batch token *rest"], chunks: int, length: int
) -> Float[Tensor, "chunk time *rest"]:
    """Chunks as separate sequences. Zeros fill the last one; they neither decay nor write."""
    missing = chunks * length - sequence.shape[1]
    if missing:
        sequence = pad(sequence, (*[0, 0] * (sequence.ndim - 2), 0, missing))
    return sequence.unflatten(1, (chunks, length)).flatten(0, 1)


def _wide(per_head: Float[Tensor, "*rest head"], headdim: int) -> Float[Tensor, "*rest channel"]:
    """Repeat each head's value for every channel of the head."""
    return per_head if headdim == 1 else per_head.repeat_interleave(headdim, dim=-1)


class _Recurrence(torch.autograd.Function):
    """h[t] = decay[t] h[t−1] + write[t], for every t. Overwrites `write` if no input requires a gradient."""

    @staticmethod
    def forward(ctx, decay, write, state):
        states = write.clone() if any(ctx.needs_input_grad) else write
        last = state
        for write_now, decay_now in zip(states.unbind(), decay.unbind(), strict=True):
            last = write_now.addcmul_(decay_now, last)
        ctx.save_for_backward(decay, states, state)
        return states

    @staticmethod
    def backward(ctx, *grads):
        decay, states, state = ctx.saved_tensors
        grad = grads[0].clone()
        for t in range(len(grad) - 2, -1, -1):
            grad[t].addcmul_(decay[t + 1], grad[t + 1])
        previous = torch.cat([state.unsqueeze(0), states[:-1]])
        return grad * previous, grad, decay[0] * grad[0]


def _scan_scalar_decay(
    o: DecayOperands, x: Float[Tensor, "batch token head headdim"]
) -> Float[Tensor, "batch token head headdim"]:
    """The scan if a head has one decay: M times x within a chunk, the state between chunks.

    On a GPU the time depends on the number of operations, so each array is laid out once for all products.
    """
    heads = o.heads // o.groups
    (write, write_now), log_decay = o.writes, _log_decay(o)
    state = x.new_zeros(o.batch, o.groups, heads, x.shape[3], o.states)
    tokens = _CHUNK_TOKENS * _CHUNKS["cuda" if x.is_cuda else "cpu"]
    out = []
    for first in range(0, o.tokens, tokens):
        here = slice(first, min(first + tokens, o.tokens))
        length = min(_CHUNK_TOKENS, here.stop - first)
        chunks = -(-(here.stop - first) // length)
        B, C, weight, now, S, inputs = (
            _by_chunk(sequence[:, here], chunks, length)
            for sequence in (o.B, o.C, write, write_now, log_decay, x)
        )
        B, C = (t.transpose(1, 2).contiguous() for t in (B, C))  # chunk group time state
        # chunk group head time (headdim)
        weight, now, S = (
            t.unflatten(2, (o.groups, -1)).permute(0, 2, 3, 1) for t in (weight, now, S)
        )
        inputs = inputs.unflatten(2, (o.groups, -1)).permute(0, 2, 3, 1, 4)
        written = weight.unsqueeze(-1) * inputs
        # Log of the decay since the chunk's start, in float64, because its differences are used.
        S = S.double().cumsum(-1)
        apart = (S.unsqueeze(-1) - S.unsqueeze(-2)).to(x.dtype)
        decay = apart.masked_fill_(kept(_later(length, S.device)), -torch.inf).exp()
        since = torch.exp(S.to(x.dtype)).unsqueeze(-1)
        until = decay[..., -1, :].unsqueeze(-1)
        pairs = C @ B.mT
        earlier = pairs if write is write_now else pairs.tril(-1)
        within = (decay * earlier.unsqueeze(2)) @ written
        if write is not write_now:
            own = pairs.diagonal(dim1=-2, dim2=-1).unsqueeze(2) * now
            within = torch.addcmul(within, own.unsqueeze(-1), inputs)
        left = ((until * written).mT @ B.unsqueeze(2)).unflatten(0, (-1, chunks))
        across = since[..., -1:, :].unflatten(0, (-1, chunks))
        before, state = _carry(across, left, state)
        y = torch.addcmul(within, C.unsqueeze(2) @ before.flatten(0, 1).mT, since)
        y = y.permute(0, 3, 1, 2, 4).unflatten(0, (-1, chunks)).flatten(1, 2)
        out.append(y[:, : here.stop - first].flatten(2, 3))
    return out[0] if len(out) == 1 else torch.cat(out, dim=1)
