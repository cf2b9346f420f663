"""Record what is computed for a layer as a CUDA graph, and replay it for the next layers of its shape.

The maps and checks of a layer are many small kernels. While Python launches them one by one, the threads that write
wait for the interpreter. A graph is launched at once.
"""

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ssmlens.scan.kept import list_kept
from ssmlens.scan.operator import Operator

log = logging.getLogger("ssmlens")

Computed = dict[str, Tensor]
"""Results by name."""
Function = Callable[..., Computed]
"""A function of an operator, and of further tensors, that never waits for the GPU."""

# Chosen, not measured: with more tokens each launch has more work, and a graph holds more memory.
_MOST_TOKENS = 2048
# Functions and shapes whose graphs are in memory at a time.
_GRAPHS = 4


class Replays:
    """The graphs of one capture. They free their memory together with this object.

    A function is recorded when it is called with the same shapes as shortly before: the first call is plain, so that
    one layer alone costs nothing more. If one cannot be recorded, a warning is logged, and every call is plain.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, _Graph] = {}
        self._recent: deque[Hashable] = deque(maxlen=_GRAPHS)
        self._failed = False

    def run(self, function: Function, operands: Operator, *tensors: Tensor) -> Computed:
        """Return `function(operands, *tensors)`, computed now or replayed.

        Args:
            function: A function at module level.
            operands: Operands without surroundings.
            tensors: Its further arguments.
        """
        if self._failed or not _can_record(operands):
            return function(operands, *tensors)
        key = _key(function, operands, tensors)
        with torch.cuda.device(operands.like.device):
            graph = self._graphs.get(key) or self._record(key, function, operands, tensors)
            return function(operands, *tensors) if graph is None else graph(operands, tensors)

    def _record(
        self, key: Hashable, function: Function, operands: Operator, tensors: tuple[Tensor, ...]
    ) -> "_Graph | None":
        """Record the function if it came with these shapes shortly before, and can be recorded."""
        if key not in self._recent:
            self._recent.append(key)
            return None
        if len(self._graphs) == _GRAPHS:
            self._graphs.clear()
        try:
            self._graphs[key] = _Graph(function, operands, tensors)
        except RuntimeError as error:  # no memory is one, too
            cause = (str(error) or type(error).__name__).splitlines()[0]
            log.warning("layers are computed without CUDA graphs, slower (%s)", cause)
            self._failed = True
            self._graphs.clear()
            return None
        return self._graphs[key]


class _Graph:
    """A recorded function, with the memory that it reads and writes."""

    def __init__(self, function: Function, operands: Operator, tensors: tuple[Tensor, ...]):
        self._operands = operands.map(lambda tensor: tensor.detach().clone())
        self._tensors = tuple(tensor.detach().clone() for tensor in tensors)
        self._graph = torch.cuda.CUDAGraph()
        # What a plain call copies to the GPU, a recorded one must find there.
        function(self._operands, *self._tensors)
        # Another thread may wait for the GPU meanwhile. PyTorch first frees the memory that the plain call used.
        options = {"stream": torch.cuda.Stream(), "capture_error_mode": "thread_local"}
        with list_kept() as self._kept, torch.cuda.graph(self._graph, **options):
            self._computed = function(self._operands, *self._tensors)

    def __call__(self, operands: Operator, tensors: tuple[Tensor, ...]) -> Computed:
        old = (*_values(self._operands), *self._tensors)
        for kept, given in zip(old, (*_values(operands), *tensors), strict=True):
            if kept is not None and given is not None:
                kept.copy_(given)
        self._graph.replay()
        return {name: tensor.clone() for name, tensor in self._computed.items()}


def _can_record(operands: Operator) -> bool:
    short = operands.batch * operands.tokens <= _MOST_TOKENS
    return operands.recordable and operands.like.is_cuda and short


def _values(operands: Operator) -> list[Tensor | None]:
    """Its tensors in a fixed order, None for those that it does not have."""
    return [getattr(operands, field.name) for field in dataclasses.fields(operands)]


def _key(function: Function, operands: Operator, tensors: tuple[Tensor, ...]) -> Hashable:
    """What a recorded call must have in common with a later one."""
    shapes = tuple(
        None if value is None else (value.shape, value.dtype, value.device)
        for value in (*_values(operands), *tensors)
    )
    precision = torch.get_float32_matmul_precision()
    return function, type(operands), shapes, precision, torch.is_inference_mode_enabled()
