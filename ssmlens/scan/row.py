"""One row of M: the weights with which one query reads all keys, for every head."""

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operator import Operator

# Factors of entries [head key factor] in memory at once. An entry has at most about 128 factors.
_FACTORS = {"cpu": 2**24, "cuda": 2**28}


def matrix_row(operands: Operator, query: int) -> Float[Tensor, "batch head key"]:
    """M[query, :] of every head, over all keys of the sequence; 0 at keys that the query does not see.

    Args:
        operands: Operands of one layer; `x` is not needed.
        query: The query's position.
    """
    o = operands.bare()
    keys = torch.arange(query if o.is_causal else o.tokens, device=o.like.device)
    keys = keys[keys != query]
    others = o.entries(keys.new_full(keys.shape, query), keys)
    if others is not None:
        row = others.new_zeros(o.batch, o.heads, o.tokens)
        row[..., keys] = others.mT
        row[..., query] = o.between(query, query + 1).diagonal()[:, 0]
        return row
    limit = _FACTORS["cuda" if o.like.is_cuda else "cpu"]
    count = max(1, limit // (128 * max(1, o.batch * o.tokens)))
    row, all_keys = (query, query + 1), (0, o.tokens)
    parts = [
        o.matrix(heads.tolist(), row, all_keys) for heads in torch.arange(o.heads).split(count)
    ]
    return torch.cat(parts, dim=1).squeeze(2)
