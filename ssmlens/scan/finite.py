"""Check that numbers are finite, in one pass through memory."""

import torch
from jaxtyping import Bool
from torch import Tensor

_SUMMED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def all_finite(*tensors: Tensor) -> bool:
    """Whether no entry of any of these tensors of one device is infinite or NaN. Waits for a GPU once."""
    if not any(tensor.is_cuda for tensor in tensors):
        return all(bool(finite_flag(tensor)) for tensor in tensors)
    return bool(torch.stack([finite_flag(tensor) for tensor in tensors]).all())


def finite_flag(tensor: Tensor) -> Bool[Tensor, ""]:
    """Whether no entry of a tensor is infinite or NaN, as a tensor on its device. Waits for no GPU.

    On a CPU it first sums the entries, which takes a twentieth of the time. If the sum is finite, every entry is. If
    not, the sum may have overflowed, so every entry is checked.
    """
    plain = tensor.detach()
    if not plain.is_cuda and plain.dtype in _SUMMED:
        sums = plain.sum().isfinite()
        if sums:
            return sums
    return plain.isfinite().all()
