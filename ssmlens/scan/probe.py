"""What map and mask do to a vector, by recurrence: the check that a stored map is the scan's."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operands import ScanOperands
from ssmlens.scan.selective_scan import selective_scan


def probe(
    operands: ScanOperands, vector: Float[Tensor, "batch token"]
) -> tuple[Float[Tensor, "batch token"], Float[Tensor, "batch token"]]:
    """Run `vector` through every head and average: attention_map · v and attention_mask · v, without either matrix.

    The first is the mean over heads of the scan of x = v with D = 0; the second the mean over heads and states of
    h[t] = Ā[t] h[t−1] + v[t], which is the scan of x = v that writes and reads 1. Both are `selective_scan`, which
    closure compares with the model, and share nothing with the block recursion that makes the maps.

    Args:
        operands: Operands of one layer; `x` is not needed.
        vector: What each token puts in.
    """
    x = vector[:, :, None, None].expand(-1, -1, operands.heads, 1)
    scan = dataclasses.replace(operands, x=x, D=None, gate=None, mixing=None)
    one = torch.ones_like(operands.delta)
    states = operands.decay[1].shape[1]
    B = one[:, :, :1, None].expand(-1, -1, 1, states)
    decay_alone = dataclasses.replace(scan, B=B, C=B / states, write=one, write_now=one)
    return selective_scan(scan).mean((2, 3)), selective_scan(decay_alone).mean((2, 3))
