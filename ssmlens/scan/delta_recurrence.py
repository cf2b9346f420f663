"""The recurrence of the delta rule in plain torch: by chunks of tokens, differentiable, any length.

In a chunk that starts from the state S (the WY form; Yang et al. 2024, arXiv 2406.06484), with Λ the decay since its
start and E = diag(β) · strictly_lower(K Kᵀ ∘ L):

    δ = (I + E)⁻¹ (u − diag(β) (Λ ∘ K) Sᵀ),    o = (Λ ∘ Q) Sᵀ + tril(Q Kᵀ ∘ L) δ

Everything but S itself is computed for all chunks at once. Decays are exponentials of sums of log decays, never of
differences of sums, so a token that forgets everything (−∞) needs no special case.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ssmlens.scan.denormals import drop_tiny

# Tokens in a chunk: if a head has one decay, and if every key component has its own.
_CHUNK_TOKENS, _CHUNK_TOKENS_BY_STATE = 64, 16


@dataclass(frozen=True)
class Run:
    """The results of the recurrence.

    Attributes:
        output: o_t = S_t q_t.
        erased: δ_t − u_t, computed without this subtraction, since it may be much smaller than u.
        state: S after the last token.
    """

    output: Float[Tensor, "batch head token headdim"]
    erased: Float[Tensor, "batch head token headdim"]
    state: Float[Tensor, "batch head headdim state"]


def run_delta_rule(
    q: Float[Tensor, "batch head token state"],
    k: Float[Tensor, "batch head token state"],
    beta: Float[Tensor, "batch head token"],
    log_decay: Float[Tensor, "batch head token #state"],
    u: Float[Tensor, "batch head token headdim"],
    state: Float[Tensor, "batch head headdim state"] | None = None,
) -> Run:
    """Run δ_t = u_t − β_t α_t S_{t−1} k_t, S_t = α_t S_{t−1} + δ_t k_tᵀ, o_t = S_t q_t.

    Args:
        q: Queries, with their scale.
        k: Keys.
        beta: Strength of each write.
        log_decay: log α.
        u: The values to write; β v in the layer itself.
        state: S before the first token. None: 0.
    """
    tokens = u.shape[2]
    size = _CHUNK_TOKENS if log_decay.shape[3] == 1 else _CHUNK_TOKENS_BY_STATE
    q, k, log_decay, u = (_by_chunk(x, size) for x in (q, k, log_decay, u))
    beta = _by_chunk(beta.unsqueeze(-1), size)
    reads, overlaps = _decayed_products(q, k, log_decay)
    since = drop_tiny(log_decay.cumsum(-2).exp())
    later = pad(log_decay, (0, 0, 0, 1))[..., 1:, :]
    until = drop_tiny(later.flip(-2).cumsum(-2).flip(-2).exp())
    k_since, k_until, across = since * k, until * k, since[..., -1:, :]
    solved = torch.linalg.solve_triangular(
        beta * overlaps, torch.cat([u, beta * k_since], dim=-1), upper=False, unitriangular=True
    )
    value, state_reader = drop_tiny(solved).split([u.shape[-1], k.shape[-1]], dim=-1)
    if state is None:
        state = u.new_zeros(*u.shape[:2], u.shape[-1], k.shape[-1])
    before = []
    for chunk in range(u.shape[2]):
        before.append(state)
        written = value[:, :, chunk] - state_reader[:, :, chunk] @ state.mT
        state = drop_tiny(across[:, :, chunk] * state + written.mT @ k_until[:, :, chunk])
    states = torch.stack(before, dim=2).mT
    value = value - state_reader @ states
    output = (since * q) @ states + reads @ value
    erased = -beta * (k_since @ states + overlaps.tril(-1) @ value)
    output, erased = (x.flatten(2, 3)[:, :, :tokens] for x in (output, erased))
    return Run(output, erased, state)


def _decayed_products(
    q: Float[Tensor, "batch head chunk time state"],
    k: Float[Tensor, "batch head chunk time state"],
    log_decay: Float[Tensor, "batch head chunk time #state"],
) -> tuple[
    Float[Tensor, "batch head chunk query key"], Float[Tensor, "batch head chunk query key"]
]:
    """q_i·k_j and k_i·k_j with the decay between the tokens, for j ≤ i; 0 elsewhere."""
    size = q.shape[-2]
    if log_decay.shape[-1] == 1:
        steps = log_decay.expand(*log_decay.shape[:-1], size)
        decay = drop_tiny(steps.tril(-1).cumsum(-2).exp().tril())
        return (q @ k.mT) * decay, (k @ k.mT) * decay
    columns = []
    for j in range(size):
        steps = pad(log_decay[..., j + 1 :, :], (0, 0, 1, 0))
        key = drop_tiny(steps.cumsum(-2).exp()) * k[..., j : j + 1, :]
        products = ((x[..., j:, :] * key).sum(-1) for x in (q, k))
        columns.append(torch.stack([pad(x, (j, 0)) for x in products]))
    reads, overlaps = torch.stack(columns, dim=-1)
    return reads, overlaps


def _by_chunk(
    x: Float[Tensor, "batch head token _"], size: int
) -> Float[Tensor, "batch head chunk time _"]:
    """Split tokens into chunks, at least one. Zeros fill the last chunk; they neither decay nor write."""
    missing = -x.shape[2] % size or (0 if x.shape[2] else size)
    return pad(x, (0, 0, 0, missing)).unflatten(2, (-1, size))
