"""What map and mask do to a vector, by recurrence: the check that a stored map is the scan's."""

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operands import ScanOperands


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
    shape = (o.batch, o.heads, o.states)
    written, plain = o.delta.new_zeros(shape), o.delta.new_zeros(*shape[:2], o.A.shape[1])
    seen, passed = [], []
    for t in range(o.tokens):
        step, v = o.delta[:, t, :, None], vector[:, t, None, None]
        decay = torch.exp(step * o.A)
        B, C = (x[:, t].repeat_interleave(heads, dim=1) for x in (o.B, o.C))
        written = torch.addcmul((v * step) * B, decay.expand_as(written), written)
        plain = torch.addcmul(v.expand_as(plain), decay, plain)
        seen.append((written * C).sum((1, 2)) / o.heads)
        passed.append(plain.mean((1, 2)))
    return torch.stack(seen, dim=1), torch.stack(passed, dim=1)
