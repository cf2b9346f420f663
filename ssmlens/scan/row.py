"""One row of M: what one query reads, of many heads at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operator import Operator


def matrix_row(
    operands: Operator, heads: Sequence[int], query: int
) -> Float[Tensor, "batch head key"]:
    """M[query, :] of some heads, over all keys of the sequence: 0 at those that the query does not see.

    Args:
        operands: Operands of one layer; `x` is not needed.
        heads: Whose M.
        query: The token that reads.
    """
    keys = torch.arange(query, device=operands.like.device)
    o = operands.select_heads(heads).bare()
    before = o.entries(keys.new_full((query,), query), keys)
    if before is None:
        return operands.matrix(heads, (query, query + 1), (0, operands.tokens)).squeeze(2)
    row = before.new_zeros(o.batch, len(heads), o.tokens)
    row[..., :query] = before.mT
    row[..., query] = o.diagonal()[:, query]
    return row
