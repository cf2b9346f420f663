"""What map and mask do to a vector, by recurrence: the check that a stored map is the scan's."""

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operands import ScanOperands

# Tokens whose decay is held at once.
_SLAB_TOKENS = 32


def probe(
    operands: ScanOperands, vector: Float[Tensor, "batch token"]
) -> tuple[Float[Tensor, "batch token"], Float[Tensor, "batch token"]]:
    """Run `vector` through every head and average: attention_map · v and attention_mask · v, without either matrix.

    The first is the mean over heads of the scan of x = v with D = 0; the second the mean over heads and states of
    h[t] = Ā[t] h[t−1] + v[t]. Sequential, so it shares nothing with the block recursion that makes the maps.

    Args:
        operands: Operands of one layer; `x` is not needed.
        vector: What each token puts in.
    """
    o = operands
    heads = o.heads // o.groups
    steps, rate = o.decay
    write, write_now = (w.transpose(0, 1).unsqueeze(-1) for w in o.writes)  # token batch head 1
    steps, v = steps.transpose(0, 1).unsqueeze(-1), vector.T[:, :, None, None]
    B, C = (x.transpose(0, 1).unsqueeze(3) for x in (o.B, o.C))  # token batch group 1 state
    written = o.delta.new_zeros(o.batch, o.heads, o.states)
    plain = o.delta.new_zeros(o.batch, o.heads, rate.shape[1])
    seen, passed = [], []
    for first in range(0, o.tokens, _SLAB_TOKENS):
        slab = slice(first, first + _SLAB_TOKENS)
        decay = (steps[slab] * rate).exp_()
        put = (v[slab] * write[slab]).unflatten(2, (o.groups, heads))
        written_slab = (put * B[slab]).flatten(2, 3)
        plain_slab = v[slab].expand_as(decay).clone()
        for t in range(len(decay)):
            written = written_slab[t].addcmul_(decay[t].expand_as(written), written)
            plain = plain_slab[t].addcmul_(decay[t], plain)
        read = written_slab.unflatten(2, (o.groups, heads)) * C[slab]
        if (
            o.write is not None or o.write_now is not None
        ):  # a token reads its own write with another weight
            more = (v[slab] * (write_now - write)[slab]).unflatten(2, (o.groups, heads))
            read = read + more * B[slab] * C[slab]
        seen.append(read.sum((2, 3, 4)) / o.heads)
        passed.append(plain_slab.mean((2, 3)))
    return torch.cat(seen).T, torch.cat(passed).T
