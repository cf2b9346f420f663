"""From where a layer was computed to arrays on the host.

From a GPU everything goes into pinned memory, which it fills forty times faster, and on a stream of its own, beside
what is computed next. Nobody may read the arrays before `wait` has returned.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


class ToHost:
    """The copies of one layer.

    Args:
        like: A tensor on the device that the copies come from.
    """

    def __init__(self, like: Tensor):
        self._stream = _copy_stream(like.device) if like.is_cuda else None
        self._last: torch.cuda.Event | None = None

    def empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory for copies, in the dtype of `like`, float32 at least."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return torch.empty(*shape, dtype=dtype, pin_memory=self._stream is not None)

    def fill(self, target: Tensor, part: Tensor) -> None:
        """Copy `part` into the first rows and columns of `target`'s last two axes, zeros into the rest.

        Args:
            target: Contiguous memory from `empty`.
            part: What goes there: as large, or smaller in the last two axes.
        """
        missing = [target.shape[axis] - part.shape[axis] for axis in (-1, -2)]
        if self._stream is not None:  # a copy beside the rest must be one piece
            self._copy(target, pad(part, (0, missing[0], 0, missing[1])))
            return
        if any(missing):
            target.zero_()
        target[..., : part.shape[-2], : part.shape[-1]] = part

    def array(self, tensor: Tensor) -> np.ndarray:
        """A tensor as an array; floating point as float32 at least."""
        plain = tensor.detach()
        if plain.is_floating_point():
            plain = plain.to(torch.promote_types(plain.dtype, torch.float32))
        if plain.is_cuda:
            pinned = torch.empty(plain.shape, dtype=plain.dtype, pin_memory=True)
            self._copy(pinned, plain.contiguous())
            return pinned.numpy()
        return plain.contiguous().numpy()

    def wait(self) -> None:
        """Wait until every copy begun so far has arrived; any thread may."""
        if self._last is not None:
            self._last.synchronize()

    def _copy(self, target: Tensor, source: Tensor) -> None:
        if self._stream is None or not source.is_cuda:
            target.copy_(source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            self._last = torch.cuda.Event()
            self._last.record(self._stream)
        source.record_stream(self._stream)


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that copies from a device take: one for all layers, so that they arrive in order."""
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]
