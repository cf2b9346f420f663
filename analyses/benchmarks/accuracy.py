"""Measure a map's error against float64, row by row, independently of the code that computed it."""

import torch
from torch import Tensor

from ssmlens.scan.operators.decay_scan import ScanOperands


def worst_row_error(
    operands: ScanOperands, attention_map: Tensor, attention_mask: Tensor, *, rows: int = 8
) -> tuple[float, float]:
    """‖row − float64 row‖ / ‖float64 row‖, the worst of some rows, for (map, mask) of the first sequence.

    The rows are spread evenly and end with the last, the longest. Each is summed in float64 straight from the
    definition (paper eq. 8), with exp(A (S_i − S_j)) for every head and state.
    """
    last = operands.tokens - 1
    errors = []
    for i in torch.linspace(last / rows, last, rows).round().long().tolist():
        got = torch.stack([attention_map[0, i], attention_mask[0, i]]).double()
        if got[:, i + 1 :].any():
            raise AssertionError(f"the query at token {i} sees a later token")
        exact = torch.stack(exact_rows(operands, i))
        errors.append((got[:, : i + 1] - exact).norm(dim=1) / exact.norm(dim=1))
    map_error, mask_error = torch.stack(errors).amax(0).tolist()  # amax keeps a NaN
    return map_error, mask_error


def exact_rows(operands: ScanOperands, i: int, heads_at_once: int = 256) -> tuple[Tensor, Tensor]:
    """Compute row i of map and mask for keys 0..i in float64, on their device. One group of B and C."""
    steps, rate = operands.decay
    S, A = steps[0, : i + 1].double().cumsum(0), rate.double()
    delta = operands.delta[0, : i + 1].double()  # key head
    read_write = operands.C[0, i, 0].double() * operands.B[0, : i + 1, 0].double()  # key state
    map_row, mask_row = delta.new_zeros(2, i + 1)
    for some in torch.arange(operands.heads).split(heads_at_once):
        decay = torch.exp((S[i, some] - S[:, some]).unsqueeze(-1) * A[some])  # key head state
        map_row += ((decay * read_write.unsqueeze(1)).sum(-1) * delta[:, some]).sum(-1)
        mask_row += decay.mean(-1).sum(-1)
    return map_row / operands.heads, mask_row / operands.heads
