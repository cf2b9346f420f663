"""Rows of a delta rule's matrices by the backward recurrence: one query, or a few, without a chunk of tokens.

What query i reads of what token j wrote is q_i carried back through the tokens between them:

    r = q_i;   for j = i … 1:   M[i,j] = β_j (r · k_j),   r ← α_j (r − β_j (r · k_j) k_j)

The erase reads with −β_i α_i k_i from token i − 1 on, and has no β_j.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows of every head.

    Attributes:
        map: M.
        erase: (I + diag(β) · strictly_lower(K Kᵀ ∘ L))⁻¹ − I.
        mask: L, averaged over key components.
    """

    map: Float[Tensor, "batch head query key"]
    erase: Float[Tensor, "batch head query key"]
    mask: Float[Tensor, "batch head query key"]


def rows(
    q: Float[Tensor, "batch head token state"],
    k: Float[Tensor, "batch head token state"],
    beta: Float[Tensor, "batch head token"],
    log_decay: Float[Tensor, "batch head token #state"],
    queries: tuple[int, int],
    keys: tuple[int, int],
) -> Rows:
    """Rows `queries` of every head's matrices, at columns `keys`: O(queries · state) a token between them.

    Args:
        q: Queries, with their scale.
        k: Keys.
        beta: Strength of each write.
        log_decay: log α.
        queries: First token and the token after the last.
        keys: Likewise.
    """
    count = queries[1] - queries[0]
    reader = q.new_zeros(*q.shape[:2], count, q.shape[3])
    eraser, decay = reader, reader[..., : log_decay.shape[3]]
    none = reader[..., 0]
    columns = [(none, none, none)] * max(0, keys[1] - max(keys[0], queries[1]))
    for j in range(queries[1] - 1, keys[0] - 1, -1):
        here = torch.arange(queries[0], queries[1], device=q.device).eq(j)[:, None]
        key, strength = k[:, :, j, None], beta[:, :, j, None]
        step = log_decay[:, :, j, None].exp()
        reader = torch.where(here, q[:, :, j, None], reader)
        decay = torch.where(here, torch.ones_like(decay), decay)
        read, erased = (reader * key).sum(-1), (eraser * key).sum(-1)
        if j < keys[1]:
            columns.append((strength * read, erased, decay.mean(-1)))
        reader = step * (reader - (strength * read).unsqueeze(-1) * key)
        eraser = step * (eraser - (strength * erased).unsqueeze(-1) * key)
        eraser = torch.where(here, -strength.unsqueeze(-1) * step * key, eraser)
        decay = step * decay
    if not columns:
        return Rows(*(none.unsqueeze(3)[..., :0] for _ in range(3)))
    return Rows(*(torch.stack(kind[::-1], dim=3) for kind in zip(*columns, strict=True)))
