"""`python -m analyses.benchmarks.edit_launches [--lines]`: operations that an edit adds to a layer.

It needs no GPU. It runs an edited layer on the CPU, with stand-ins for the kernels of causal_conv1d, mamba_ssm and
Triton, and counts the operations that write memory. On a GPU each of them is at least one launch. It prints what an
edit adds to a layer's own forward, for each generation, dtype and edit. With `--lines` it also prints the count of every
line of this project.
"""

import argparse
import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import ssmlens
from ssmlens.edits import Ablate, KnockOut, Scale, mixing
from ssmlens.edits.edit import Edit
from ssmlens.models import edge_sums, fused_convolution, fused_projection, fused_scan
from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.mamba3 import Mamba3
from ssmlens.scan import decay_recurrence

# As many tokens as in `analyses.benchmarks.edits`: the number of chunks depends on it.
_TOKENS, _D_MODEL = 1024, 64
LAYERS: dict[str, Callable[[torch.dtype], nn.Module]] = {
    "Mamba-1": lambda dtype: Mamba(_D_MODEL, d_state=16, dtype=dtype),
    "Mamba-2": lambda dtype: Mamba2(_D_MODEL, d_state=16, headdim=16, dtype=dtype),
    "Mamba-3": lambda dtype: Mamba3(_D_MODEL, d_state=16, headdim=16, dtype=dtype),
}
EDITS: dict[str, Callable[[], Edit]] = {
    "ablation": lambda: Ablate(layer=0),
    "delta scaled": lambda: Scale(layer=0, what="delta", factor=0.5),
    "1 % of edges": lambda: KnockOut(layer=0, mask=torch.rand(_TOKENS, _TOKENS) < 0.01),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Operations that launch nothing. (`equal` compares an edited operand on the CPU alone: on a GPU it would wait.)
_FREE = {
    "detach",
    "empty",
    "new_empty",
    "empty_strided",
    "empty_like",
    "equal",
    "promote_types",
    "_unsafe_view",
}


class Launches(TorchDispatchMode):
    """Counts the operations that write memory, by the line of this project that calls them."""

    def __init__(self):
        super().__init__()
        self.lines: Counter[str] = Counter()
        self._inside = False

    def add(self, name: str) -> None:
        """Count one operation."""
        own = [f for f in traceback.extract_stack() if "/ssmlens/" in f.filename]
        where = own[-1] if own else None
        self.lines[
            f"{where.filename.split('/ssmlens/')[-1]}:{where.lineno} {name}" if where else name
        ] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._inside and not func.is_view and func.overloadpacket.__name__ not in _FREE:
            self.add(func.overloadpacket.__name__)
        return out

    @contextlib.contextmanager
    def as_one(self, name: str) -> Iterator[None]:
        """Count everything inside as one operation."""
        self.add(name)
        self._inside = True
        yield
        self._inside = False


class _Fused(TorchFunctionMode):
    """Counts an RMS norm, which is one kernel on a GPU, as one operation."""

    def __init__(self, launches: Launches):
        super().__init__()
        self._launches = launches

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.rms_norm:
            return func(*args, **(kwargs or {}))
        with self._launches.as_one("rms_norm"):
            return func(*args, **(kwargs or {}))


def count(layer: nn.Module, edits: list[Edit], hidden: Tensor) -> Counter[str]:
    """Count the operations of a second forward of the layer with these edits, by line."""
    launches = Launches()
    model = nn.Sequential(layer)
    with _kernels_replaced(launches), ssmlens.editing(model, edits):
        model(hidden)
        launches.lines.clear()
        with launches, _Fused(launches):
            model(hidden)
    return launches.lines


@contextlib.contextmanager
def _kernels_replaced(launches: Launches) -> Iterator[None]:
    """Let the CPU take the paths of a GPU, with stand-ins that count as one operation each."""

    def convolve(u: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        with launches.as_one("causal_conv1d"):
            return torch.empty_like(u).normal_()

    def scan(x: Tensor, *operands: Tensor) -> Tensor:
        with launches.as_one("selective_scan"):
            return torch.empty_like(x).normal_()

    class SumRow:
        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *arguments, **constants: launches.add("sum_row")

    with contextlib.ExitStack() as stack:
        for module, name, replacement in (
            (fused_convolution, "kernel", lambda device: convolve),
            (fused_projection, "kernel", lambda device: convolve),
            (fused_scan, "_kernel", lambda device: scan),
            (edge_sums, "_kernel", SumRow),
            (mixing, "edge_sums", edge_sums.launch),
        ):
            stack.enter_context(mock.patch.object(module, name, replacement))
        stack.enter_context(
            mock.patch.dict(decay_recurrence._CHUNKS, cpu=decay_recurrence._CHUNKS["cuda"])
        )
        yield


@torch.no_grad()
def main() -> None:
    """Print the operations that each edit adds to each layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", action="store_true", help="also print the count of every line")
    lines = parser.parse_args().lines
    for generation, make in LAYERS.items():
        for name, dtype in DTYPES.items():
            torch.manual_seed(0)
            layer = make(dtype).eval()
            hidden = torch.randn(1, _TOKENS, _D_MODEL, dtype=dtype)
            plain = count(layer, [], hidden)
            for edit, kind in EDITS.items():
                added = count(layer, [kind()], hidden) - plain
                print(f"{generation}  {name:<9} {edit:<13}{added.total():5d}", flush=True)
                for line, times in sorted(added.items()) if lines else ():
                    print(f"    {times:3d}  {line}")


if __name__ == "__main__":
    main()
