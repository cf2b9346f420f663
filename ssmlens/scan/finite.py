"""Whether numbers are finite, asked in one pass through memory."""

import torch
from jaxtyping import Bool
from torch import Tensor

_SUMMED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def all_finite(*tensors: Tensor) -> bool:
    """Whether no entry of any of these, on one device, is infinite or NaN. A GPU is waited for once."""
    if not any(tensor.is_cuda for tensor in tensors):
        return all(bool(finite_flag(tensor)) for tensor in tensors)
    return bool(torch.stack([finite_flag(tensor) for tensor in tensors]).all())


def finite_flag(tensor: Tensor) -> Bool[Tensor, ""]:
    """Whether no entry of a tensor is infinite or NaN, as a tensor on the same device: a GPU is not waited for.

    On a CPU the sum comes first, in a twentieth of the time: where it is finite, every entry is. Where it is not, it
    may have overflowed, and every entry is checked.
    """
    plain = tensor.detach()
    if not plain.is_cuda and plain.dtype in _SUMMED:
        sums = plain.sum().isfinite()
        if sums:
            return sums
    return plain.isfinite().all()
