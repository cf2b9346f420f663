"""Read and change calls of modules of any signature. The first argument and the first output are the hidden state."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ssmlens.adapters.adapter import arguments, own_forward


def first_input(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> tuple[str, Tensor]:
    """The name and the value of a module's first argument."""
    given = arguments(module, args, kwargs)
    name = next(iter(given))
    return name, given[name]


def with_first_input(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], new: Tensor
) -> tuple[tuple, dict[str, Any]]:
    """The call with `new` as its first argument."""
    name, _ = first_input(module, args, kwargs)
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})


def first_output(output: Any) -> Tensor:
    """The hidden state in a module's output."""
    return output[0] if isinstance(output, tuple) else output


def with_first_output(output: Any, new: Tensor) -> Any:
    """The output with `new` as its hidden state."""
    if not isinstance(output, tuple):
        return new
    rest = (new, *output[1:])
    return type(output)(*rest) if hasattr(output, "_fields") else rest


def returns_residual(block: nn.Module) -> bool:
    """Whether a block returns (its own output, residual stream), as mamba_ssm's does."""
    return "residual" in own_forward(block).__code__.co_varnames[:4]
