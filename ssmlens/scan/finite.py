"""Check that numbers are finite, in one pass through memory."""

import torch
from jaxtyping import Bool
from torch import Tensor

_SUMMED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def all_finite(*tensors: Tensor) -> bool:
    """Whether no entry of any of these tensors of one device is infinite or NaN. Waits for a GPU once."""
    return bool(finite_flag(*tensors))


def finite_flag(*tensors: Tensor) -> Bool[Tensor, ""]:
    """Whether no entry of these tensors of one device is infinite or NaN, as a tensor there. Waits for no GPU.

    On a CPU it first sums the entries, which takes a twentieth of the time. If the sum is finite, every entry is. If
    not, the sum may have overflowed, so every entry is checked.
    """
    flags = [_flag(tensor.detach()) for tensor in tensors]
    if len(flags) == 1:
        return flags[0]
    return torch.stack(flags).all() if flags else torch.tensor(True)


def _flag(tensor: Tensor) -> Bool[Tensor, ""]:
    if not tensor.is_cuda and tensor.dtype in _SUMMED:
        sums = tensor.sum().isfinite()
        if sums:
            return sums
    return tensor.isfinite().all()
