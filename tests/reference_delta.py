"""The oracle of the delta rule: recurrence and matrices straight from their definitions, slowly and in float64.

Nothing here shares code with the fast paths; the tests compare those with this.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from ssmlens.scan.operators.delta_rule import DeltaRule


def reference_delta_rule(
    operator: DeltaRule, v: Float64[Tensor, "batch token head headdim"]
) -> Float64[Tensor, "batch token head headdim"]:
    """S_t = α_t S_{t−1} + β_t (v_t − α_t S_{t−1} k_t) k_tᵀ, o_t = S_t q_t, token by token (without D)."""
    o = operator.map(lambda t: t.double())
    wide = o.heads // o.groups
    out = torch.zeros_like(v)
    for n in range(o.batch):
        for head in range(o.heads):
            S = v.new_zeros(v.shape[3], o.q.shape[3])
            for t in range(o.tokens):
                q, k = o.q[n, t, head // wide], o.k[n, t, head // wide]
                S = S * torch.exp(o.log_decay[n, t, head])
                S = S + o.beta[n, t, head] * torch.outer(v[n, t, head] - S @ k, k)
                out[n, t, head] = S @ q
    return out


def reference_delta_maps(
    operator: DeltaRule,
) -> tuple[
    Float64[Tensor, "batch head query key"],
    Float64[Tensor, "batch head query key"],
    Float64[Tensor, "batch query key"],
]:
    """M and (I + E)⁻¹ − I of every head, and the mask, by the explicit formulas: T³ operations, T² states."""
    o = operator.map(lambda t: t.double())
    wide, T = o.heads // o.groups, o.tokens
    maps = o.beta.new_zeros(o.batch, o.heads, T, T)
    erases, mask, one = torch.zeros_like(maps), maps[:, 0].clone(), torch.eye(T).to(maps)
    for n in range(o.batch):
        for head in range(o.heads):
            q, k = o.q[n, :, head // wide], o.k[n, :, head // wide]
            alpha = torch.exp(o.log_decay[n, :, head])
            L = alpha.new_zeros(T, T, alpha.shape[1])
            for i in range(T):
                L[i, :i] = L[i - 1, :i] * alpha[i]
                L[i, i] = 1
            scores = (q[:, None] * L * k[None]).sum(-1)
            E = (o.beta[n, :, head, None, None] * k[:, None] * L * k[None]).sum(-1).tril(-1)
            inverse = torch.linalg.solve_triangular(one + E, one, upper=False)
            maps[n, head] = scores.tril() @ inverse * o.beta[n, :, head]
            erases[n, head] = inverse - one
            mask[n] += L.mean(-1) / o.heads
    return maps, erases, mask
