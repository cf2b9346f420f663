"""Tensors that are made once and used again and again, such as indices: a CUDA graph reads them where they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_list: ContextVar[list[Tensor] | None] = ContextVar("_list", default=None)


@contextmanager
def list_kept() -> Iterator[list[Tensor]]:
    """List the tensors of the block that went through `kept`. Who records the block as a graph must hold them."""
    tensors: list[Tensor] = []
    token = _list.set(tensors)
    try:
        yield tensors
    finally:
        _list.reset(token)


def kept(tensor: Tensor) -> Tensor:
    """Return a tensor from a cache, which may drop it later."""
    tensors = _list.get()
    if tensors is not None:
        tensors.append(tensor)
    return tensor
