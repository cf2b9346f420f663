"""The selective scan in plain torch: fast on a CPU, differentiable, any length.

Where every state decays by itself (Mamba-1) the recurrence runs token by token over [state, head] slabs that stay
in cache; where a head has one decay (Mamba-2) it runs chunk by chunk as matrix products (Dao & Gu 2024, section 6).
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operands import ScanOperands, scan_dtype

# Tokens whose Ā and states are held at once where every state decays by itself.
_SLAB_TOKENS = 32
# Tokens in one matrix product where a head has one decay.
_CHUNK_TOKENS = 64


def selective_scan(operands: ScanOperands) -> Float[Tensor, "batch token head headdim"]:
    """Run the scan: h[t] = Ā[t] h[t−1] + B̄[t] x[t], y[t] = C[t] h[t] + D x[t] (paper eqs. 1-2).

    Computed in float32 (float64 operands: float64); the result has the dtype of that computation.

    Args:
        operands: Operands with `x`. The gate is not applied.

    Raises:
        ValueError: The operands hold no `x`.
    """
    if operands.x is None:
        raise ValueError("a scan needs operands.x")
    dtype = scan_dtype(operands.delta)
    read = dataclasses.replace(operands, gate=None, mixing=None)
    o = read.map(lambda t: t.to(dtype))
    assert o.x is not None
    if o.tokens == 0:
        return o.x
    y = _scan_scalar_decay(o, o.x) if o.scalar_decay else _scan_state_decay(o, o.x)
    return y if o.D is None else y + o.D * o.x


def _scan_state_decay(
    o: ScanOperands, x: Float[Tensor, "batch token head headdim"]
) -> Float[Tensor, "batch token head headdim"]:
    """Every head and state by itself: slabs of tokens, each [token batch group state head·headdim]."""
    heads, headdim = x.shape[2:]
    assert o.A is not None
    delta = _wide(o.delta, headdim).unflatten(2, (o.groups, -1)).transpose(0, 1).unsqueeze(3)
    A = _wide(o.A.T, headdim).unflatten(1, (o.groups, -1)).transpose(0, 1).contiguous()
    B, C = o.B.transpose(0, 1).unsqueeze(-1), o.C.transpose(0, 1).unsqueeze(3)
    x = x.flatten(2).unflatten(2, (o.groups, -1)).transpose(0, 1).unsqueeze(3)
    put = delta * x  # token batch group 1 head·headdim
    state = x.new_zeros(o.batch, *A.shape)
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (put, A, B, C))
    memory = None if differentiable else x.new_empty(2, _SLAB_TOKENS, *state.shape)
    out = []
    for first in range(0, o.tokens, _SLAB_TOKENS):
        slab = slice(first, min(first + _SLAB_TOKENS, o.tokens))
        # Without gradients every slab is computed in the same memory, which is then in cache.
        kept = (None, None) if memory is None else memory[:, : slab.stop - first].unbind()
        decay = torch.mul(delta[slab], A, out=kept[0]).exp_()
        write = torch.mul(B[slab], put[slab], out=kept[1])
        states = _Recurrence.apply(decay, write, state)
        out.append((C[slab] @ states).squeeze(3))
        state = states[-1].clone()
    return torch.cat(out).flatten(2).transpose(0, 1).unflatten(2, (heads, headdim))


def _wide(per_head: Tensor, headdim: int) -> Tensor:
    """From a value a head, in the last axis, to one a channel."""
    return per_head if headdim == 1 else per_head.repeat_interleave(headdim, dim=-1)


class _Recurrence(torch.autograd.Function):
    """h[t] = decay[t] h[t−1] + write[t]; returns every h. `write` is overwritten when no gradient is wanted."""

    @staticmethod
    def forward(ctx, decay, write, state):
        states = write.clone() if any(ctx.needs_input_grad) else write
        last = state
        for now, kept in zip(states.unbind(), decay.unbind(), strict=True):
            last = now.addcmul_(kept, last)
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
    o: ScanOperands, x: Float[Tensor, "batch token head headdim"]
) -> Float[Tensor, "batch token head headdim"]:
    """One decay a head: within a chunk the map itself times x, between chunks the state."""
    heads_per_group = o.heads // o.groups
    steps, rate = o.decay
    log_decay = steps * rate.T
    write, write_now = o.writes
    state = x.new_zeros(o.batch, o.groups, heads_per_group, x.shape[3], o.states)
    out = []
    for first in range(0, o.tokens, _CHUNK_TOKENS):
        chunk = slice(first, first + _CHUNK_TOKENS)
        # batch group token state
        B, C = o.B[:, chunk].transpose(1, 2), o.C[:, chunk].transpose(1, 2)
        # batch group head token (headdim)
        weight, S = (
            per_head[:, chunk].unflatten(2, (o.groups, -1)).permute(0, 2, 3, 1)
            for per_head in (write, log_decay)
        )
        put = x[:, chunk].unflatten(2, (o.groups, -1)).permute(0, 2, 3, 1, 4)
        written = weight.unsqueeze(-1) * put
        # Log of the decay since the chunk's start; in float64, because what counts are its differences.
        S = S.double().cumsum(-1)
        causal = torch.ones(S.shape[-1], S.shape[-1], dtype=torch.bool, device=S.device).tril()
        apart = (S.unsqueeze(-1) - S.unsqueeze(-2)).to(x.dtype)
        decay = torch.exp(apart.masked_fill(~causal, -torch.inf))
        left = torch.exp((S[..., -1:] - S).to(x.dtype)).unsqueeze(-1)
        S = S.to(x.dtype)
        within = (decay * (C @ B.mT).unsqueeze(2)) @ written
        before = (C.unsqueeze(2) @ state.mT) * torch.exp(S).unsqueeze(-1)
        out.append((within + before).permute(0, 3, 1, 2, 4).flatten(2, 3))
        carried = (left * written).mT @ B.unsqueeze(2)
        state = torch.exp(S[..., -1])[..., None, None] * state + carried
    y = torch.cat(out, dim=1)
    if o.write is None and o.write_now is None:
        return y
    own = (o.B * o.C).sum(-1).repeat_interleave(heads_per_group, dim=2)
    return y + ((write_now - write) * own).unsqueeze(-1) * x
